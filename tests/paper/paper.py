"""paper.py LLAMA MODEL: tests multiple_choice.py, exact_match.py and row.py, with the real LLAMA on MODEL.

    python3 tests/paper/paper.py ./llama tests/tiny

The items are made up here, a few of each set, in its published layout. The lines and prompts made of them are compared
byte for byte, then scored and completed by LLAMA; broken files must be refused in one line; row.py runs over all sets.
Ends with "paper: N passed, N failed"; exit code 1: some failed."""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
COUNT = [0, 0]


def check(what, fine, seen=""):
    COUNT[not fine] += 1
    if not fine:
        print(f"FAILED: {what}\n{seen}")


def command(*words, stdin=b""):
    done = subprocess.run(words, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return done.returncode, done.stdout, done.stderr.decode()


def run(script, *arguments, stdin=b""):
    return command(sys.executable, os.path.join(HERE, script), *arguments, stdin=stdin)


def write(name, data):
    if not isinstance(data, (bytes, str)):
        data = "".join(json.dumps(item) + "\n" for item in data)
    os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
    with open(name, "wb") as stream:
        stream.write(data if isinstance(data, bytes) else data.encode())


def science(*items):
    return [{"id": f"made-up-{key}", "answerKey": key, "question": {
        "stem": stem, "choices": [{"text": text, "label": label} for label, text in zip(labels, texts)]}}
        for key, stem, labels, texts in items]


SCIENCE = science(("B", "Which of these floats?", "ABCD", ["a nail", "a cork", "a key", "a coin"]),
                  ("3", "What melts snow?", "1234", ["night", "shade", "warmth", "frost"]),
                  ("E", "Which has\tfive?", "ABCDE", ["one", "two", "three", "four", "a hand"]))
SCIENCE_LINES = ("1\t{}Which of these floats?{}\t a nail\t a cork\t a key\t a coin\n"
                 "2\t{}What melts snow?{}\t night\t shade\t warmth\t frost\n"
                 "4\t{}Which has\\tfive?{}\t one\t two\t three\t four\t a hand\n")
ARC_LINES = SCIENCE_LINES.format(*["Question: ", r"\nAnswer:"] * 3).replace("\t ", "\t \\c")

FILES = {  # where row.py looks for them
    "boolq/dev.jsonl": [
        {"question": "is the gate open", "title": "Gate", "answer": True, "passage": "The gate\tstands\nopen.\r\\o/"},
        {"question": "is milk black", "title": "Milk", "answer": False, "passage": "Milk is white. It says caf\u00e9."},
        {"question": "do cats read", "title": "Cat", "answer": False, "passage": "No cat was seen to read."}],
    "piqa/valid.jsonl": [
        {"goal": "Dry a wet shoe.", "sol1": "Put it in the sun.", "sol2": "Put it in the pond."},
        {"goal": "Open a jar", "sol1": "look at it", "sol2": "turn  the lid"},
        {"goal": "Cut bread", "sol1": "with a spoon", "sol2": "with a knife"}],
    "piqa/valid-labels.lst": "0\n1\n1\n",
    "siqa/dev.jsonl": [
        {"context": "Ona lost her hat.", "question": "What will Ona do?", "answerA": "swim", "answerB": "look for it",
         "answerC": "sleep"},
        {"context": "Tim fed the dog.", "question": "How is the dog?", "answerA": "full", "answerB": "sad",
         "answerC": "wet"},
        {"context": "Lea fell.", "question": "Why?", "answerA": "joy", "answerB": "rain", "answerC": "a stone"}],
    "siqa/dev-labels.lst": b"2\r\n1\r\n3\r\n",
    "hellaswag/hellaswag_val.jsonl": [
        {"ind": 1, "activity_label": "Rowing", "ctx_a": "A boat lies there.", "ctx_b": "the Man", "label": 2,
         "endings": ["eats it.", "[step] sings  to it. ", "rows away.", "paints [substeps] a wall."]},
        {"ind": 2, "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Take flour.", "ctx_b": "",
         "label": 0, "endings": ["Add water [title] Stir.", "Run.", "Sit.", "Sing."]},
        {"ind": 3, "activity_label": "Walking", "ctx_a": "They walk.", "ctx_b": "a dog", "label": 3,
         "endings": ["flies.", "reads.", "talks.", "follows."]}],
    "winogrande/dev.jsonl": [
        {"sentence": "Ida paid Ola because _ was in debt.", "option1": "Ida", "option2": "Ola", "answer": "1"},
        {"sentence": "The cup fits the box as the _ is big.", "option1": "cup", "option2": "box", "answer": "2"},
        {"sentence": "_ ran.", "option1": "A \\c", "option2": "B", "answer": "2"}],
    "arc/ARC-Easy-Test.jsonl": SCIENCE,
    "arc/ARC-Challenge-Test.jsonl": SCIENCE,
    "openbookqa/test.jsonl": SCIENCE,
    "mmlu/dev/bird_songs_dev.csv": "Who sings?,owl,lark,newt,crab,B\nWhen?,dawn,noon,dusk,night,A\n",
    "mmlu/test/bird_songs_test.csv": '"Which, of ""these"",\nhums?",bee,2,c,d,A\r\n  Where? ,sea,tree,pit,pot,B\r\n',
    "mmlu/dev/knots_dev.csv": "What ties?,rope,sand,air,ink,A\n",
    "mmlu/test/knots_test.csv": "What cuts?,rope,sand,air,a knife,D\nWhat burns?,rope,sand,air,ink,A\n",
    "lambada/lambada_test.jsonl": [
        {"text": "Ann took the key.\n`` Give me the key, '' said Ben"}, {"text": "He went home to his home "},
        {"text": "The sea, always the sea"}],
    "nq/NQ-open.dev.jsonl": [
        {"question": "which bird stands on one leg", "answer": ["The Heron", "a stork"]},
        {"question": "Who dug the well?", "answer": ["Mr. O'Dell"]},
        {"question": "where is ulm", "answer": ["on a river"]}],
    "triviaqa/web-dev.json": json.dumps({"Data": [
        {"Question": "Which bird fishes?", "Answer": {"Value": "Heron", "Aliases": ["The Heron", "An_egret"],
                                                       "NormalizedAliases": ["heron", "grey heron"]}},
        {"Question": "Who dug?", "Answer": {"Value": "Dell", "Aliases": [], "NormalizedAliases": ["dell"],
                                            "HumanAnswers": ["O'Dell"]}}]}),
    "gsm8k/test.jsonl": [
        {"question": "Two carts of 3,500 bricks. How many bricks?", "answer": "2*3500 = 7,000.\n#### 7,000"},
        {"question": "Ten less 3?", "answer": "10-3 = <<10-3=7>>7\n#### 7"}, {"question": "0-5?", "answer": "#### -5"}],
    "gsm8k/train.jsonl": [{"question": f"1+{i}?", "answer": f"It is <<1+{i}={i + 1}>>{i + 1}.\n#### {i + 1}"}
                          for i in range(9)],
    "shots.jsonl": [{"question": "is it", "answer": ["yes"]}, {"question": "who", "answer": ["me", "you"]}],
    "items.jsonl": [{"context": "one", "endings": ["two"]}, {"context": "", "endings": [" "], "label": None},
                    {"context": "\\n \n", "endings": ["a\tb", "\\c"], "label": 1}],
}

MMLU = r"The following are multiple choice questions (with answers) about bird songs.\n\n" \
    r"Who sings?\nA. owl\nB. lark\nC. newt\nD. crab\nAnswer: B\n\n" \
    r"When?\nA. dawn\nB. noon\nC. dusk\nD. night\nAnswer: A\n\n"
LINES = [  # arguments of multiple_choice.py, what it writes
    ("boolq boolq/dev.jsonl",
     r"1	Gate -- The gate\tstands\nopen.\r\\o/\nQuestion: is the gate open?\nAnswer:	 no	 yes" "\n"
     "0\tMilk -- Milk is white. It says caf\u00e9." r"\nQuestion: is milk black?\nAnswer:	 no	 yes" "\n"
     r"0	Cat -- No cat was seen to read.\nQuestion: do cats read?\nAnswer:	 no	 yes" "\n"),
    ("piqa piqa/valid.jsonl piqa/valid-labels.lst",
     r"0	Question: Dry a wet shoe.\nAnswer:	 \cPut it in the sun.	 \cPut it in the pond." "\n"
     r"1	Question: Open a jar\nAnswer:	 \clook at it	 \cturn  the lid" "\n"
     r"1	Question: Cut bread\nAnswer:	 \cwith a spoon	 \cwith a knife" "\n"),
    ("siqa siqa/dev.jsonl siqa/dev-labels.lst",
     r"1	Q: Ona lost her hat. What will Ona do?\nA:	 \cswim	 \clook for it	 \csleep" "\n"
     r"0	Q: Tim fed the dog. How is the dog?\nA:	 \cfull	 \csad	 \cwet" "\n"
     r"2	Q: Lea fell. Why?\nA:	 \cjoy	 \crain	 \ca stone" "\n"),
    ("hellaswag hellaswag/hellaswag_val.jsonl",
     "2\tRowing: A boat lies there. The man\t \\ceats it.\t \\c sings to it.\t \\crows away.\t \\cpaints a wall.\n"
     "0\tBaking: How to bake. Take flour.\t \\cAdd water. Stir.\t \\cRun.\t \\cSit.\t \\cSing.\n"
     "3\tWalking: They walk. A dog\t \\cflies.\t \\creads.\t \\ctalks.\t \\cfollows.\n"),
    ("winogrande winogrande/dev.jsonl",
     "0\tIda paid Ola because \tIda\\c was in debt.\tOla\\c was in debt.\n"
     "1\tThe cup fits the box as the \tcup\\c is big.\tbox\\c is big.\n"
     "1\t\tA \\\\c\\c ran.\tB\\c ran.\n"),
    ("arc arc/ARC-Easy-Test.jsonl", ARC_LINES),
    ("arc arc/ARC-Challenge-Test.jsonl", ARC_LINES),
    ("openbookqa openbookqa/test.jsonl", SCIENCE_LINES.format(*[""] * 6)),
    ("mmlu mmlu/dev/bird_songs_dev.csv mmlu/test/bird_songs_test.csv",
     "0\t" + MMLU + r'Which, of "these",\nhums?\nA. bee\nB. 2\nC. c\nD. d\nAnswer:	 A	 B	 C	 D' "\n"
     "1\t" + MMLU + r"Where?\nA. sea\nB. tree\nC. pit\nD. pot\nAnswer:	 A	 B	 C	 D" "\n"),
    ("lambada lambada/lambada_test.jsonl",
     r"0	Ann took the key.\n`` Give me the key, '' said	 Ben" "\n0\tHe went home to his\t home\n"
     "0\tThe sea, always the\t sea\n"),
    ("items items.jsonl", "-\tone\ttwo\n-\t\t \n1\t\\\\n \\n\ta\\tb\t\\\\c\n"),
]

BROKEN = [  # the set, its files' texts, what stands first on stderr
    ("boolq", ['{"question": "q", "passage": "p", "title": "t", "answer": true}\n{"question"'], "0:2: not JSON"),
    ("boolq", ['{"question": "q", "passage": "p", "title": "t", "answer": "true"}'], '0:1: no "answer" that is a bool'),
    ("boolq", ['{"question": 1, "passage": "p", "title": "t", "answer": true}'], '0:1: no "question"'),
    ("boolq", ["[]\n"], '0:1: no "title"'),
    ("boolq", [b'\n\n{"question": "\xff"}'], "0:3: "),
    ("boolq", ['{"question": "\\ud800", "passage": "p", "title": "t", "answer": true}'], "0:1: "),
    ("boolq", ["[" * 100000], "0:1: "),
    ("piqa", ['{"goal": "g", "sol1": "1", "sol2": "2"}\n' * 2, "0\n"], "0:2: no label in "),
    ("piqa", ['{"goal": "g", "sol1": "1", "sol2": "2"}\n', "0\n1\n"], "1:2: no item in "),
    ("piqa", ['{"goal": "g", "sol1": "1", "sol2": "2"}\n' * 2, "0\nx\n"], "1:2: invalid"),
    ("piqa", ['{"goal": "g", "sol1": "1", "sol2": "2"}\n' * 2, "0\n2\n"], "0:2: the right ending is none of the 2"),
    ("siqa", ['{"context": "", "question": "", "answerA": "", "answerB": "", "answerC": ""}', "0"], "0:1: the right"),
    ("hellaswag", ['{"activity_label": "", "ctx_a": "", "ctx_b": "", "label": 0, "endings": ["a", 1]}'], "0:1: no"),
    ("hellaswag", ['{"activity_label": "", "ctx_a": "", "ctx_b": "", "label": 0, "endings": []}'], "0:1: the right"),
    ("winogrande", ['{"sentence": "a", "option1": "b", "option2": "c", "answer": "1"}'], "0:1: no _"),
    ("winogrande", ['{"sentence": "a _", "option1": "b", "option2": "c", "answer": ""}'], "0:1: invalid"),
    ("arc", [json.dumps(science(("5", "s", "ABCD", "abcd"))[0])], "0:1: the right ending is none of the 4"),
    ("openbookqa", ['{"answerKey": "A", "question": {"stem": "s", "choices": ["a"]}}'], '0:1: no "choices"'),
    ("mmlu", ["q,a,b,c,d,A\n", '"q\n?",a,b,c,d,A\n\nq,a,b,c,A\n'], "1:4: not question, A, B, C, D, answer"),
    ("mmlu", ["q,a,b,c,d,E\n", "q,a,b,c,d,A\n"], "0:1: not question"),
    ("mmlu", ["q,a,b,c,d,A\n", 'q,a,b,c,d,A\n"q,a,b,c,d,A\nq,a,b,c,d,A\n'], "1:2: not question"),
    ("lambada", ['{"text": "word "}'], "0:1: fewer than two words"),
    ("items", ['{"context": "", "endings": ["a"], "label": -1}'], "0:1: the right"),
    ("nq", ['{"question": "q", "answer": "a"}'], '0:1: no "answer" that is a list of str'),
    ("nq", ['{"question": "q", "answer": ["a"]}\n{"question": " ", "answer": ["a"]}'], "0:2: no question"),
    ("nq", ['{"question": "q\\u0000", "answer": ["a"]}'], "0:1: a NUL"),
    ("triviaqa", ['{"Data": [{}]}'], '0: Data[0]: no "Answer"'),
    ("triviaqa", ['{"Data"'], "0: not JSON"),
    ("triviaqa", ["{}"], '0: no "Data"'),
    ("gsm8k", ['{"question": "q", "answer": "7"}'], '0:1: no number behind "####"'),
]

ANSWER_THESE = "Answer these questions:\nQ: "
NQ = ["Which bird stands on one leg?", "Who dug the well?", "Where is ulm?"]
SHOTS = "".join(f"Question: 1+{i}?\nAnswer: It is <<1+{i}={i + 1}>>{i + 1}.\n#### {i + 1}\n\n" for i in range(8))
PROMPTS = [  # arguments of exact_match.py, the prompts
    ("nq prompts nq/NQ-open.dev.jsonl", [ANSWER_THESE + q + "\nA:" for q in NQ]),
    ("nq prompts nq/NQ-open.dev.jsonl --shots 1 shots.jsonl",
     [ANSWER_THESE + "Is it?\nA: yes\nQ: " + q + "\nA:" for q in NQ]),
    ("nq prompts nq/NQ-open.dev.jsonl --shots 64 shots.jsonl",
     [ANSWER_THESE + "Is it?\nA: yes\nQ: Who?\nA: me\nQ: " + q + "\nA:" for q in NQ]),
    ("triviaqa prompts triviaqa/web-dev.json", [ANSWER_THESE + q + "\nA:" for q in ("Which bird fishes?", "Who dug?")]),
    ("gsm8k prompts gsm8k/test.jsonl --shots 8 gsm8k/train.jsonl",
     [SHOTS + "Question: " + q + "\nAnswer:"
      for q in ("Two carts of 3,500 bricks. How many bricks?", "Ten less 3?", "0-5?")]),
]
GRADES = [  # set and file, texts of the prompts in order, standard error, how many are right
    ("nq nq/NQ-open.dev.jsonl", [" HERON\nQ: Who?", " mr odell!", " river"], "0.3333", 2),
    ("nq nq/NQ-open.dev.jsonl", [" Stork, or heron", "", "\non  a river. An"], "0.3333", 2),
    ("nq nq/NQ-open.dev.jsonl", [" stork or heron", "mr o dell", "the\ton  a an river!"], "0.3333", 1),
    ("nq nq/NQ-open.dev.jsonl", [" A Stork"], "0.0000", 1),
    ("triviaqa triviaqa/web-dev.json", [" `Grey-Heron'", "Dells"], "0.5000", 1),
    ("triviaqa triviaqa/web-dev.json", [" Egret\n", " DELL"], "0.0000", 2),
    ("triviaqa triviaqa/web-dev.json", [" heron", " o dell"], "0.0000", 2),
    ("gsm8k gsm8k/test.jsonl", ["2*3500\n#### 7000\n", "####7.00 apples", "#### 5"], "0.3333", 2),
    ("gsm8k gsm8k/test.jsonl", ["7000", "#### $7.", "so\n#### -5.\n\nQuestion: 1\n#### 6"], "0.3333", 2),
]
ACCURACIES = ["sum", "token", "byte", "answer", "greedy"]


def results(texts):
    return "".join(json.dumps({"prompt": i, "sample": 0, "text": text, "tokens": [], "finish": "stop"}) + "\n"
                   for i, text in enumerate(texts)).encode()


def sizes(tsv):
    """Each item's label, and the bytes of its endings: of what is scored."""
    for line in tsv.decode().splitlines():
        label, _, *endings = line.split("\t")
        plain = [text.replace("\\\\", "/").split("\\c")[-1].replace("\\t", "_").replace("\\n", "_") for text in endings]
        yield label, [str(len(text.encode())) for text in plain]


def test_lines(llama, model):
    for arguments, expected in LINES:
        code, out, errors = run("multiple_choice.py", *arguments.split())
        check(arguments, (code, out, errors) == (0, expected.encode(), ""), out.decode() + errors)
        items = list(sizes(expected.encode()))
        code, out, errors = command(llama, "score", model, stdin=expected.encode())
        told = [line.split("\t") for line in out.decode().splitlines()]
        picks, endings = ([line for line in told if line[0] == kind] for kind in ("pick", "ending"))
        accuracies = [line for line in told if line[0] == "accuracy"]
        labelled = str(sum(label != "-" for label, _ in items))
        check(f"score {arguments}", code == 0, errors)
        check(f"picks of {arguments}", [line[1:3] for line in picks] ==
              [[str(i), label] for i, (label, _) in enumerate(items)], out.decode())
        check(f"endings of {arguments}", [line[1:3] + [line[5]] for line in endings] ==
              [[str(i), str(k), n] for i, (_, each) in enumerate(items) for k, n in enumerate(each)], out.decode())
        check(f"accuracies of {arguments}", [line[1] for line in accuracies] == ACCURACIES and
              all(line[5] == labelled for line in accuracies), out.decode())
    with open("items.jsonl", "rb") as stream:
        check("from stdin", run("multiple_choice.py", "items", "-", stdin=stream.read())[1] == LINES[-1][1].encode())


def test_fit(llama, model):
    """Four shots, two of which fit in 2,048 tokens; of a question as long as a shot one; of a longer one none."""
    words = "the king went out and the queen came in, "
    write("long_dev.csv", "".join(f'"{words * 65}",a,b,c,d,A\n' for _ in range(4)))
    write("long_test.csv", "".join(f'"{words * n}",a,b,c,d,A\n' for n in (1, 65, 130, 1)))
    plain = ["mmlu", "long_dev.csv", "long_test.csv"]
    code, out, errors = run("multiple_choice.py", *plain)
    check("all shots", code == 0 and errors == "" and [line.count(b"Answer:") for line in out.splitlines()] == [5] * 4)
    code, _, errors = command(llama, "score", model, "-q", stdin=out)
    check("score refuses what is too long", code == 5 and "item 1" in errors, errors)
    code, out, errors = run("multiple_choice.py", *plain, "--fit", llama, model)
    counts = [line.count(b"Answer:") - 1 for line in out.splitlines()]
    check("--fit", code == 0 and counts == [2, 1, 0, 2], f"{counts} {errors}")
    check("--fit tells", errors == "mmlu: 4 questions with fewer shots, to fit in 2048 tokens: "
          "1 with 0, 1 with 1, 2 with 2\n", errors)
    code, out, errors = command(llama, "score", model, "-q", stdin=out)
    check("score takes what fits", code == 0 and out.count(b"\t4\n") == len(ACCURACIES), errors)
    code, out, errors = run("multiple_choice.py", *plain, "--fit", llama, "no model")
    check("--fit without a model", code == 1 and out == b"" and "ended with exit code" in errors, errors)

    write("edge_dev.csv", "Who?,a,b,c,d,A\n")  # where one token more no longer fits with the shot
    prompt = "The following are multiple choice questions (with answers) about edge.\n\nWho?{0}Why{1}?{0}"
    prompt = prompt.format("\nA. a\nB. b\nC. c\nD. d\nAnswer: A\n\n", " the" * 1900)[:-2]
    _, count, _ = command(llama, "tokenize", model, "--count", "--bos", "-q", stdin=prompt.encode())
    most = 1900 + 2048 - int(count)
    write("edge_test.csv", "".join(f"Why{' the' * n}?,a,b,c,d,A\n" for n in (most, most + 1)))
    out = [run("multiple_choice.py", "mmlu", "edge_dev.csv", "edge_test.csv", *fit)[1].splitlines(True)
           for fit in ([], ["--fit", llama, model])]
    check("the edge", [[line.count(b"Answer:") for line in lines] for lines in out] == [[2, 2], [2, 1]], most)
    codes = [[command(llama, "score", model, stdin=line)[0] for line in lines] for lines in out]
    check("score has it there", codes == [[0, 5], [0, 0]], codes)


def test_prompts(llama, model):
    for arguments, expected in PROMPTS:
        code, out, errors = run("exact_match.py", *arguments.split())
        fine = (code, out, errors) == (0, "".join(p + "\0" for p in expected).encode(), "")
        check(arguments, fine, out.decode() + errors)
    batch = [llama, model, "-0", "--json", "--temp", "0", "-n", "8", "--stop", "\n"]
    code, out, errors = command(*batch, stdin="".join(p + "\0" for p in PROMPTS[0][1]).encode())
    told = [json.loads(line) for line in out.splitlines()]
    check("a batch", code == 0 and [result["prompt"] for result in told] == [0, 1, 2], out.decode() + errors)
    answers = [result["text"].replace(",", ".").partition(".")[0] for result in told]
    answers[1] += " x"  # what the model said is right, but for this one
    write("told.jsonl", [{"question": "q", "answer": ["no", answer]} for answer in answers])
    code, line, errors = run("exact_match.py", "nq", "grade", "told.jsonl", stdin=out)
    check("its grade", line == b"accuracy\texact\t0.6667\t0.3333\t2\t3\n", line.decode() + errors + out.decode())


def test_refusals(llama, model):
    for name, texts, expected in BROKEN:
        files = [f"broken_{i}" for i in range(len(texts))]
        for file, text in zip(files, texts):
            write(file, text)
        exact = name in ("nq", "triviaqa", "gsm8k")
        code, out, errors = run("exact_match.py" if exact else "multiple_choice.py", name, *["prompts"] * exact, *files)
        fine = code == 1 and out == b"" and errors.startswith("broken_" + expected) and errors.count("\n") == 1
        check(f"{name} refuses {texts!r:.100}", fine, errors)
    for script, arguments in [("multiple_choice.py", "boolq absent"), ("exact_match.py", "triviaqa prompts absent")]:
        code, _, errors = run(script, *arguments.split())
        check(f"{script} {arguments}", code == 1 and "absent" in errors and errors.count("\n") == 1, errors)
    usage = [("multiple_choice.py", ""), ("multiple_choice.py", "piqa one"), ("multiple_choice.py", "none x"),
             ("exact_match.py", "nq"), ("exact_match.py", "nq grade"), ("exact_match.py", "nq prompts a --shots 1"),
             ("exact_match.py", "nq prompts a --shots x b"), ("row.py", "a b"), ("row.py", "a b c --limit x"),
             ("row.py", "a b c --limit 0"), ("row.py", "a b c none")]
    for script, arguments in usage:
        code, out, errors = run(script, *arguments.split())
        check(f"usage of {script} {arguments}", code == 2 and out == b"" and "Traceback" not in errors, errors)
    for script in ("multiple_choice.py", "exact_match.py", "row.py"):
        code, out, errors = run(script, "-h")
        check(f"{script} -h", code == 0 and out.startswith(b"usage: " + script.encode()) and errors == "", errors)


def test_grades(llama, model):
    for arguments, texts, error, right in GRADES:
        name, file = arguments.split()
        code, out, errors = run("exact_match.py", name, "grade", file, stdin=results(texts))
        expected = f"accuracy\texact\t{right / len(texts):.4f}\t{error}\t{right}\t{len(texts)}\n"
        check(f"grade {arguments} {texts}", (code, out) == (0, expected.encode()), out.decode() + errors)
    for told in [b"", b"{}\n", b"no\n", results(["x"] * 4), b'{"prompt": 0}\n', b'{"prompt": -1, "text": ""}\n']:
        code, out, errors = run("exact_match.py", "nq", "grade", "nq/NQ-open.dev.jsonl", stdin=told)
        check(f"grade refuses {told}", code == 1 and out == b"" and errors.count("\n") == 1, errors)


ROW = {"boolq": "answer", "piqa": "byte", "siqa": "byte", "hellaswag": "byte", "winogrande": "byte", "arc-easy": "byte",
       "arc-challenge": "byte", "openbookqa": "answer", "nq": "exact", "triviaqa": "exact", "gsm8k": "exact",
       "mmlu": "sum", "lambada": "greedy"}
TABLE = 6  # lines: the names, measured, four sizes of the paper's


def test_row(llama, model):
    code, out, errors = run("row.py", llama, model, ".", "--limit", "2")
    lines = out.decode().splitlines()
    check("row.py", code == 0 and errors == "" and len(lines) == len(ROW) + TABLE, out.decode() + errors)
    for line, (name, accuracy) in zip(lines, ROW.items()):
        fields = line.split("\t")
        of = "4" if name == "mmlu" else "2"
        fine = len(fields) == 6 and fields[:2] == [name, accuracy] and 0 <= float(fields[2]) <= 1 and fields[5] == of
        check(f"row.py's {name}", fine, line)
    table = [line.split() for line in lines[-TABLE:]]
    check("the row", table[:2] == [list(ROW), ["measured"] + [f"{100 * float(line.split()[2]):.1f}" for line in
                                                              lines[:-TABLE]]], out.decode())
    check("the paper's", table[2][:4] == ["paper", "7B", "76.5", "79.8"] and
          all(len(line) == 2 + len(ROW) for line in table[2:]), out.decode())

    write("tee", f'#!/bin/sh\necho "$@" >>words\ntee -a fed | "{llama}" "$@"\n')  # LLAMA, and what it is given
    os.chmod("tee", 0o755)
    code, out, errors = run("row.py", "./tee", model, ".", "gsm8k", "--limit", "3", "arc-easy", "piqa")
    lines = [text for arguments, text in LINES if arguments.split()[0] in ("piqa", "arc")][:2]
    with open("fed", "rb") as fed, open("words") as words:
        check("what LLAMA is fed", fed.read().decode() == "".join(lines + [p + "\0" for p in PROMPTS[-1][1]]))
        check("how", words.read() == f"score {model} -q\n" * 2 +
              f"{model} -0 --json --temp 0 -n 256 --stop Question:\n")
    scored = [command(llama, "score", model, "-q", stdin=text.encode())[1].decode().splitlines()[2] for text in lines]
    told = out.decode().splitlines()
    check("three sets", code == 0 and told[:2] == [scored[0].replace("accuracy", "piqa"),
                                                   scored[1].replace("accuracy", "arc-easy")], out.decode() + errors)
    check("their table", told[3].split() == ["piqa", "arc-easy", "gsm8k"] and
          told[5].split() == ["paper", "7B", "79.8", "72.8", "11.0"], out.decode())

    os.remove("siqa/dev-labels.lst")
    os.remove("mmlu/dev/knots_dev.csv")
    write("boolq/dev.jsonl", "{")
    code, out, errors = run("row.py", llama, model, ".", "--limit", "1")
    lines = out.decode().splitlines()
    absent = [f"siqa\tabsent\t{os.path.join('.', 'siqa/dev-labels.lst')}",
              f"mmlu\tabsent\t{os.path.join('.', 'mmlu/dev/knots_dev.csv')}"]
    check("absent sets", all(line in lines for line in absent), out.decode())
    check("a broken set", code == 1 and "dev.jsonl:1: not JSON" in errors, errors)
    check("their row", [lines[-5].split()[i] for i in (1, 3, 12)] == ["failed", "-", "-"], out.decode())
    code, out, errors = run("row.py", llama, model, ".", "siqa")
    check("an absent set that was asked for", code == 1 and out.startswith(b"siqa\tabsent\t"), out.decode() + errors)
    code, out, errors = run("row.py", llama, "no model", ".")
    check("a LLAMA that fails", code == 1 and errors.count("ended with exit code 3") == len(ROW) - 3, errors)
    code, out, errors = run("row.py", llama, model, "no folder")
    check("no data", code == 0 and out.decode().count("\tabsent\t") == len(ROW), out.decode() + errors)


def main():
    if len(sys.argv) != 3 and sys.argv[3:4] != ["--case"]:
        sys.exit("usage: paper.py LLAMA MODEL [--case NAME]")
    llama, model = map(os.path.abspath, sys.argv[1:3])
    only = "".join(sys.argv[4:5])
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the scripts see to it themselves
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for name, data in FILES.items():
            write(name, data)
        for test in (test_lines, test_fit, test_prompts, test_refusals, test_grades, test_row):
            name = test.__name__.removeprefix("test_")
            if only in ("", name):
                print("--", name, flush=True)
                test(llama, model)
        os.chdir(HERE)
    check("no __pycache__", not os.path.exists(os.path.join(HERE, "__pycache__")))
    print(f"paper: {COUNT[0]} passed, {COUNT[1]} failed")
    sys.exit(COUNT[1] > 0)


if __name__ == "__main__":
    main()
