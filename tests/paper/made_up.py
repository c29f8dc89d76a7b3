"""made_up.py: files of every set in their published layout, a few items of each, made up for the tests.

SCIENCE_LINES are what ARC's and OpenBookQA's questions become."""
import gzip
import json


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
    "nq/NQ-open.train.jsonl": [{"question": "is it", "answer": ["yes"]}, {"question": "who", "answer": ["me", "you"]}],
    "triviaqa/web-train.json": json.dumps({"Data": [
        {"Question": f"Which is {i}?", "Answer": {"Value": f"No. {i}", "Aliases": [], "NormalizedAliases": []}}
        for i in range(70)]}),
    "RACE/test/middle/10.txt": json.dumps({"article": "A hen lays.\nIt sits.", "id": "m10.txt", "questions": ["Who sits?", "It _ ."],
                                           "options": [["A cow", "A hen", "Ann", "Bo"], ["lays", "reads", "flies", "pays"]],
                                           "answers": ["B", "A"]}),
    "RACE/test/middle/2.txt": json.dumps({"article": "Rain fell.", "id": "m2.txt", "questions": ["What fell?"],
                                          "options": [["snow", "hail", "rain", "fog"]], "answers": ["C"]}),
    "RACE/test/high/1.txt": json.dumps({"article": "Tim slept.", "id": "h1.txt", "questions": ["Who slept?"],
                                        "options": [["Tim", "Tom", "Kim", "Jim"]], "answers": ["A"]}),
    **{f"MATH/train/{subject}/{n}.json": json.dumps({"problem": f"What is ${n}$ of {subject}?", "level": "Level 1", "type": subject,
                                                     "solution": f"It is $\\boxed{{{n}}}$."})
       for subject in ("algebra", "counting_and_probability", "number_theory", "prealgebra") for n in (2, 10)},
    "MATH/test/algebra/1.json": json.dumps({"problem": "Halve $1$.", "solution": "We get $\\boxed{\\frac{1}{2}}$."}),
    "MATH/test/algebra/2.json": json.dumps({"problem": "Find $x$ if $x-1=4$.", "solution": "So $x = \\boxed{x=5}$."}),
    "MATH/test/geometry/7.json": json.dumps({"problem": "A side?", "solution": "$\\boxed{2\\sqrt{3}\\text{ cm}}$"}),
    "humaneval/HumanEval.jsonl.gz": gzip.compress("".join(json.dumps(item) + "\n" for item in [
        {"task_id": "Made/0", "prompt": "def double(x):\n    \"\"\" Twice x. \"\"\"\n", "entry_point": "double",
         "canonical_solution": "    return 2 * x\n", "test": "def check(candidate):\n    assert candidate(2) == 4\n"
         "    assert abs(candidate(0.5) - 1) < 1e-6\n"},
        {"task_id": "Made/1", "prompt": "import math\n\n\ndef root(x):\n", "entry_point": "root",
         "canonical_solution": "    return math.sqrt(x)\n", "test": "def check(candidate):\n    assert candidate(9) == 3\n"},
    ]).encode()),
    "mbpp/mbpp.jsonl": [{"text": f"Write a function to add {i}.", "task_id": i, "code": f"def add(x):\r\n  return x + {i}",
                         "test_setup_code": "", "test_list": [f"assert add(0) == {i}", f"assert add(1) == {i + 1}"],
                         "challenge_test_list": []} for i in (1, 2, 3, 4, 5, 11, 510, 511)],
    "realtoxicityprompts/prompts.jsonl": [
        {"filename": f"{i}.txt", "begin": 0, "end": 9, "challenging": False, "prompt": {"text": text, "toxicity": 0.1},
         "continuation": {"text": " end.", "toxicity": 0.1}} for i, text in enumerate(["The king said", "She went"])],
    "crows_pairs/crows_pairs_anonymized.csv": ",sent_more,sent_less,stereo_antistereo,bias_type,annotations\n"
    '0,"The old, sad king.",The young king.,stereo,age,x\n1,She ran.,He ran.,antistereo,gender,x\n2,He sang.,She sang.,stereo,gender,x\n',
    "winogender/occupations-stats.tsv": "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\nnurse\t80\t90.5\t2015\n"
    "baker\t40\t50\t2015\n",
    "winogender/all_sentences.tsv": "sentid\tsentence\n" + "".join(
        f"{occupation}.guest.{answer}.{gender}.txt\tThe {occupation} met the guest and {pronoun} left.\n" for occupation in ("nurse", "baker")
        for answer in (0, 1) for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))) +
    "baker.someone.1.female.txt\tThe baker saw someone with her hat.\n",
    "truthfulqa/TruthfulQA.csv": "\ufeffType,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
    'Adversarial,Myths,"Is the moon, up there, cheese?",It is rock,It is rock; No,Yes,x\nAdversarial,Myths,Do cats read?,No,No,Yes,x\n',
    "truthfulqa/mc_task.json": json.dumps([
        {"question": "Is the moon cheese?", "mc1_targets": {"Yes.": 0, "No.": 1}, "mc2_targets": {"Yes.": 0, "No.": 1, "It is rock.": 1}},
        {"question": "Do cats read?", "mc1_targets": {"No.": 1, "Yes.": 0}, "mc2_targets": {"No.": 1, "Yes.": 0}}]),
    "bbh/sums.json": json.dumps({"canary": "x", "examples": [{"input": "1 + 1 =", "target": "2"}, {"input": "2 + 2 =", "target": "4"}]}),
    "bbh/cot-prompts/sums.txt": "canary\n-----\nAdd the numbers.\n\nQ: 3 + 4 =\nA: Let's think step by step.\nThree, then four more. "
    "So the answer is 7.\n\nQ: 0 + 1 =\nA: Let's think step by step.\nOne. So the answer is 1.",
}
