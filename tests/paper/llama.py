"""llama.py: runs the command `llama` on many questions, and remembers what it said.

A result is what --json prints for an item or a text. Each result is known by a key: a hash of the model, the question and
all options that can change it. Batches, threads, guesses and streaming cannot, so a result can be used again."""
import contextlib
import fcntl
import functools
import hashlib
import json
import os
import subprocess
import tempfile

from items import Broken, at, take

TEXTS_AT_ONCE = 4096  # texts that one process generates; 32 of them share each pass over the weights
SEQUENCES = 32
TOO_LONG = 5  # llama's exit code if some inputs do not fit in the context
INTERRUPTED = 130
KEPT_OF_ITEM, KEPT_OF_TEXT = ("continuations", "pick"), ("text", "finish", "prompt_tokens")


class Records:
    """The results so far: key -> result. With a file, also those of earlier runs; each new one is appended to it."""

    def __init__(self, path=None):
        self.known, self.stream = {}, None
        if not path:
            return
        if os.path.exists(path) and not os.path.isfile(path):
            raise Broken(f"{path}: not a file")
        self.path, self.stream = path, open(path, "a+b")
        try:
            fcntl.flock(self.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Broken(f"{path}: another run writes it") from None
        self.stream.seek(0)
        end = 0
        for number, line in enumerate(self.stream, 1):
            if not line.endswith(b"\n"):  # the run was ended while it wrote
                break
            record = at(f"{path}:{number}", json.loads, line)
            if not isinstance(record, dict) or not isinstance(record.get("key"), str):
                raise Broken(f"{path}:{number}: not a result of row.py")
            self.known[record["key"]] = record
            end += len(line)
        self.stream.truncate(end)

    def add(self, key, about, result):
        self.known[key] = result
        if self.stream:
            try:
                self.stream.write(json.dumps({"key": key, **about, **result}).encode() + b"\n")
                self.stream.flush()
            except OSError as error:
                raise Broken(f"{self.path}: {error.strerror}") from None


def key_of(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class Llama:
    def __init__(self, command, model, options=(), draft=None, seed=1):
        self.command, self.model, self.options, self.seed = command, model, list(options), seed
        self.draft = ["--draft", draft] if draft else []
        self.about = self.object("info", model, "--json", *self.options)
        self.context = at(command, take, self.about, "context", int)

    @functools.cached_property
    def identity(self):
        """What the model is: its place, its shape, and the checksum of its logits for a text."""
        shape = [self.about[name] for name in ("format", "dtype", "dim", "layers", "heads", "kv_heads", "hidden", "vocab",
                                               "norm_eps", "rope_theta", "file_bytes")]
        tokenizer = [os.path.realpath(path) for word, path in zip(self.options, self.options[1:]) if word == "--tokenizer"]
        logits = self.object("trace", self.model, "The king", "output", "--json", *self.options)["crc32"]
        return [os.path.realpath(self.model), shape, "--fast" in self.options, tokenizer, logits]

    def object(self, *words):
        """The one object that the command prints."""
        printed = list(self.objects(words, b""))
        if len(printed) != 1:
            raise Broken(f"{self.command} {words[0]} printed {len(printed)} objects, not 1")
        return printed[0]

    def objects(self, words, data, errors=None):
        """The objects that the command prints, each as soon as it is printed."""
        with tempfile.TemporaryFile() as stdin:
            stdin.write(data)
            stdin.seek(0)
            process = subprocess.Popen([self.command, *words], stdin=stdin, stdout=subprocess.PIPE, stderr=errors)
        try:
            for line in process.stdout:
                yield at(self.command, json.loads, line)
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code not in (0, TOO_LONG):
            raise Broken(f"{self.command} ended with exit code {code}")

    def texts(self, prompts, *words, errors=None):
        data = b"".join(prompt + b"\0" for prompt in prompts)
        return self.objects([self.model, "-0", "--json", *self.options, *words], data, errors)

    @property
    def tokenizer_options(self):
        """Those of `options` that change the tokens of a text."""
        words = [word for word in self.options if word == "--special" or word.startswith("--tokenizer=")]
        for word, value in zip(self.options, self.options[1:]):
            words += [word, value] if word == "--tokenizer" else []
        return words

    def count(self, prompts):
        """The tokens of each prompt, as a completion has them; None if they do not fit in the context. Evaluates nothing."""
        data = b"".join(prompt + b"\0" for prompt in prompts)
        words = ["tokenize", self.model, "-0", "--count", "-q", *self.tokenizer_options]
        counts = list(self.objects(words, data, subprocess.DEVNULL)) if prompts else []
        self.check_number(counts, prompts)
        start = 1 if self.about["add_bos"] and "--no-bos" not in self.options else 0
        return [start + count if start + count <= self.context else None for count in counts]

    def check_number(self, results, inputs):
        if len(results) != len(inputs):
            raise Broken(f"{self.command} printed {len(results)} results, not {len(inputs)}")

    # ---- Multiple choice ----

    def item_keys(self, lines):
        return [key_of(self.identity, "score", line.decode()) for line in lines]

    def score(self, name, lines, records):
        """The results of the items, in their order; those that are not known are computed."""
        keys = self.item_keys(lines)
        todo = {key: (i, line) for i, (key, line) in enumerate(zip(keys, lines)) if key not in records.known}
        new, failed = list(todo), {}
        data = b"".join(line + b"\n" for _, line in todo.values())
        with contextlib.closing(self.objects(["score", self.model, "--json", *self.options], data)) as results:
            for result in results if todo else ():
                if "item" not in result:
                    continue
                key = new[result["item"]]
                if "error" in result:
                    failed[key] = {"error": result["error"]}
                else:
                    records.add(key, {"task": name, "item": todo[key][0]}, {part: result[part] for part in KEPT_OF_ITEM})
        known = [result for result in map({**failed, **records.known}.get, keys) if result]
        self.check_number(known, keys)
        return known

    # ---- Generation ----

    def sampling(self, task):
        stops = [word for stop in task.stops for word in ("--stop", stop)]
        return ["-n", str(task.tokens), "--temp", str(task.temperature), "--top-p", str(task.top_p), *stops]

    def text_keys(self, task, prompts, samples):
        """A list for each prompt, of a key for each sample."""
        words = self.sampling(task)
        return [[key_of(self.identity, "generate", prompt.decode(), words, self.seed + sample) for sample in range(samples)]
                for prompt in prompts]

    @staticmethod
    def batches(keys, records):
        """What is still to be generated: lists of (prompt, its first sample that is not known), the same sample in each list."""
        whole, parts, seen = [], [], set()
        for i, row in enumerate(keys):
            missing = [sample for sample, key in enumerate(row) if key not in records.known]
            if missing and row[0] not in seen:
                seen.add(row[0])
                (parts if missing[0] else whole).append((i, missing[0]))
        step = max(1, TEXTS_AT_ONCE // max(map(len, keys), default=1))
        return [[part] for part in parts] + [whole[i:i + step] for i in range(0, len(whole), step)]

    def generate(self, task, prompts, counts, samples, records):
        """A list of results for each prompt, one a sample; those that are not known are generated. counts: of prompts' tokens."""
        words, keys, failed = self.sampling(task), self.text_keys(task, prompts, samples), {}
        for batch in self.batches(keys, records):
            first = batch[0][1]
            context = min(self.context, max(counts[i] or 0 for i, _ in batch) + task.tokens)
            options = [*words, "-s", str(self.seed + first), "-k", str(samples - first), "-c", str(max(context, 1)), *self.draft]
            with contextlib.closing(self.texts([prompts[i] for i, _ in batch], *options)) as results:
                for result in results:
                    i, sample = batch[result["prompt"]][0], first + result["sample"]
                    if "error" in result:
                        failed[i] = {"error": result["error"]}
                    elif result["finish"] != "interrupted" and keys[i][sample] not in records.known:
                        records.add(keys[i][sample], {"task": task.name, "item": i, "sample": sample},
                                    {part: result[part] for part in KEPT_OF_TEXT})
        results = {**{key: failed[i] for i in failed for key in keys[i]}, **records.known}
        known = [[results[key] for key in row if key in results] for row in keys]
        self.check_number([row for row in known if len(row) == samples], keys)
        return known

    # ---- How long it takes ----

    def timed(self, prompt, words):
        """The result for the prompt, or for as much of it as fits."""
        result, = self.texts([prompt], *words, errors=subprocess.DEVNULL)
        if "error" not in result:
            return result
        if len(prompt) == 1:
            raise Broken(f"{self.model}: a context of {self.context} positions is too short")
        return self.timed(prompt[:len(prompt) // 2], words)

    def speed(self):
        """(seconds of a pass over the weights, seconds of computing for a token)."""
        prompt = ("The king and his people went to the sea and saw the old house, and " * 12).encode()
        words = ["--temp", "0", "-n", "2", "-c", str(min(512, self.context)), "--no-lookup", "--ignore-eos", "-q"]
        for _ in range(1 if self.about["weights"] == "stream" else 2):  # the second time its weights are in memory
            short, long = self.timed(prompt[:1], words), self.timed(prompt, words)
        one = max(short["seconds"] - short["first_token_seconds"], 1e-6)
        tokens = long["prompt_tokens"]
        return one, max((long["first_token_seconds"] - short["first_token_seconds"] + one) / tokens, 1e-7)


def passes_time(speed, tokens, together):
    """Seconds to evaluate that many tokens, so many of them in each pass."""
    one, each = speed
    return tokens * max(one / together, each)
