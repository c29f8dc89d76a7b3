"""Chats with special tokens: the README's recipes give the tokens that SentencePiece's own library gives.

    special.py LLAMA TINY FORMATS WORK      FORMATS: build/tests/formats, which writes the models of its case special
"""
import json
import os
import re
import shutil
import subprocess
import sys

import sentencepiece

llama, tiny, formats, work = sys.argv[1:]
failed = passed = 0


def check(holds, what):
    global failed, passed
    passed += bool(holds)
    failed += not holds
    if not holds:
        print("FAIL:", what)


def run(*arguments, stdin=""):
    return subprocess.run([llama, *arguments], input=stdin, capture_output=True, text=True)


def build(model, specials, text):
    """The ids of a text: its special tokens, and each stretch between them by SentencePiece."""
    parts = re.split("(" + "|".join(map(re.escape, sorted(specials, key=len, reverse=True))) + ")", text)
    ids = []
    for part in parts:
        ids += [specials[part]] if part in specials else model.encode(part)
    return ids


def recipe(name, folder, end, prompt, prefix, suffix, no_bos, ends=False):
    model = sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
    specials = {"<unk>": 0, "<s>": 1, "</s>": 2}
    added = os.path.join(folder, "added_tokens.json")
    if os.path.exists(added):
        specials.update(json.load(open(added)))
    common = ["--temp", "0", "-n", "6", "-c", "400"]
    lines = ["Once", "There was <s> a king", "yes"]
    text, begin = prompt, [] if no_bos else [1]

    first = begin + build(model, specials, prompt + prefix + lines[0] + suffix)
    reply = json.loads(run(folder, "-p", " ".join(map(str, first)), "--ids", "--json", *common).stdout)
    stop = reply["tokens"][3]  # the chat's replies end before this token, where they come to it
    common += ["--stop-id", str(stop)]
    if ends:  # that token is the end token: an added token takes its id
        copy = os.path.join(work, name)
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        with open(os.path.join(copy, "tokenizer_config.json"), "w") as out:
            json.dump({"added_tokens_decoder": {str(stop): {"content": end, "special": True}}}, out)
        folder, specials[end] = copy, stop
    want, kept = "", 0
    for line in lines:
        text += prefix + line + suffix
        ids = begin + build(model, specials, text)
        got = run("tokenize", folder, "--special", "-p", text).stdout.split()
        check(begin + list(map(int, got)) == ids, f"{name}: the ids of {text!r}")
        reply = json.loads(run(folder, "-p", " ".join(map(str, ids)), "--ids", "--json", *common).stdout)
        check(reply["prompt_tokens"] == len(ids), f"{name}: --ids")
        want += reply["text"] + "\n"
        ended = reply["finish"] == "stop" and stop == specials.get(end)
        text, kept = text + reply["text"] + (end if ended else ""), kept + ended
    check(kept > 0 or not ends, f"{name}: no reply ends with {end}")
    cache = os.path.join(work, name + ".cache")
    if os.path.exists(cache):
        os.remove(cache)
    chat = [folder, "-i", "--special", "-p", prompt, "--in-prefix", prefix, "--in-suffix", suffix, *common]
    chat += ["--no-bos"] if no_bos else []
    got = run(*chat, "--prompt-cache", cache, stdin="\n".join(lines) + "\n")
    check(got.returncode == 0 and got.stdout == want, f"{name}: {got.stdout!r}, not {want!r} {got.stderr}")
    ids = begin + build(model, specials, text)
    stats = run(folder, "--ids", "-p", " ".join(map(str, ids)), "-n", "1", "-c", "400", "--prompt-cache", cache, "--stats").stderr
    cached = re.search(r"^cache +(\d+)", stats, re.M)
    check(cached and int(cached[1]) >= len(ids) - 1, f"{name}: of {len(ids)} tokens the cache holds {cached and cached[1]}")


subprocess.run([formats, tiny, work, "--case", "special"], check=True, stdout=subprocess.DEVNULL)
recipe("llama-2-chat", tiny, "</s>", "", "<s>[INST] ", " [/INST]", True)
recipe("vicuna", tiny, "</s>", "A chat. ", "USER: ", " ASSISTANT:", False)
recipe("ended", tiny, "<|end|>", "A chat. ", "USER: ", " ASSISTANT:", False, ends=True)
recipe("chatml", os.path.join(work, "special"), "<|im_end|>", "<|im_start|>system\nBe brief.<|im_end|>",
       "\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", False)
llama_3 = shutil.copytree(tiny, os.path.join(work, "llama-3"), dirs_exist_ok=True)
with open(os.path.join(llama_3, "added_tokens.json"), "w") as out:
    json.dump({"<|start_header_id|>": 1021, "<|end_header_id|>": 1022, "<|eot_id|>": 1023}, out)
recipe("llama-3", llama_3, "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>",
       "<|start_header_id|>user<|end_header_id|>\n\n",
       "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", False)
print(f"special: {passed} passed, {failed} failed")
sys.exit(failed != 0)
