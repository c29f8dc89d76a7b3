"""tasks.py: every task: its table, its data, how it is asked, and how its columns are made."""
import dataclasses
from typing import Callable

import exact_match
import judged
import multiple_choice
import programs


@dataclasses.dataclass
class Task:
    name: str
    table: str  # its number in the paper; - if it is not in the paper
    items: int  # in the published set
    shots: str
    files: str  # in DATA
    home: str
    licence: str
    read: Callable  # DATA -> questions
    columns: Callable  # (question, result) of each -> (column, value, standard error, number)
    protocol: str  # what the paper does not say, and what was chosen
    tokens: int = 0  # of a text at most; 0: the task is multiple choice
    stops: tuple = ()
    temperature: float = 0
    top_p: float = 1
    samples: int = 1  # texts of each prompt
    least: int = 1  # samples at least
    runs_programs: bool = False
    judge: str = ""  # the extension of the file for a judge
    neutral: bool = False  # DATA may have TASK.jsonl instead, in the form of multiple_choice.neutral


TASKS = {}


def task(*given, **more):
    added = Task(*given, **more)
    TASKS[added.name] = added


# ---- Table 3 ----

HARNESS = "the paper prints no prompt: the words are lm-evaluation-harness's"
BYTE = f"{HARNESS}; log-probability per byte of an ending without the space in front (paper: per character)"
ANSWER = 'log-probability less that after "Answer:"'


def common(name, items, files, home, licence, read, rule="byte", protocol=BYTE):
    task(name, "3", items, "0", files, home, licence, read, multiple_choice.accuracy(name, rule), protocol, neutral=True)


common("boolq", 3270, "boolq/dev.jsonl", "github.com/google-research-datasets/boolean-questions", "CC BY-SA 3.0",
       multiple_choice.boolq, "answer", f"{HARNESS}; {ANSWER}")
common("piqa", 1838, "piqa/valid.jsonl piqa/valid-labels.lst", "yonatanbisk.com/piqa", "AFL-3.0", multiple_choice.piqa)
common("siqa", 1954, "siqa/dev.jsonl siqa/dev-labels.lst", "leaderboard.allenai.org/socialiqa (socialiqa-train-dev.zip)",
       "CC BY 4.0, by lists of others", multiple_choice.siqa)
common("hellaswag", 10042, "hellaswag/hellaswag_val.jsonl", "github.com/rowanz/hellaswag", "MIT", multiple_choice.hellaswag)
common("winogrande", 1267, "winogrande/dev.jsonl", "winogrande.allenai.org (winogrande_1.1.zip)", "CC BY",
       multiple_choice.winogrande, protocol=f"{HARNESS}; scored is the text after the blank, per byte")
common("arc-easy", 2376, "arc/ARC-Easy-Test.jsonl", "allenai.org/data/arc (ARC-V1-Feb2018.zip)", "CC BY-SA",
       multiple_choice.arc("Easy"))
common("arc-challenge", 1172, "arc/ARC-Challenge-Test.jsonl", "allenai.org/data/arc (ARC-V1-Feb2018.zip)", "CC BY-SA",
       multiple_choice.arc("Challenge"))
common("openbookqa", 500, "openbookqa/test.jsonl", "allenai.org/data/open-book-qa (OpenBookQA-V1-Sep2018.zip)", "Apache-2.0",
       multiple_choice.openbookqa, "answer", f"{HARNESS}; {ANSWER}")

# ---- Tables 4 and 5 ----

CLOSED_BOOK = "which examples the paper took is not known: the first ones of the training file; as many as fit; an answer ends " \
    "at the first newline, dot or comma"

for shots in (0, 1, 5, 64):
    task(f"nq-{shots}", "4", 3610, str(shots), "nq/NQ-open.dev.jsonl" + " nq/NQ-open.train.jsonl" * (shots > 0),
         "github.com/google-research-datasets/natural-questions (nq_open)", "CC BY-SA 3.0", exact_match.nq(shots),
         exact_match.exact(f"nq-{shots}", exact_match.first_answer), CLOSED_BOOK, tokens=64, stops=("\n",))
for shots in (0, 1, 5, 64):
    task(f"triviaqa-{shots}", "5", 9951, str(shots), "triviaqa/web-dev.json" + " triviaqa/web-train.json" * (shots > 0),
         "nlp.cs.washington.edu/triviaqa (triviaqa-rc.tar.gz, qa)", "Apache-2.0", exact_match.triviaqa(shots),
         exact_match.exact(f"triviaqa-{shots}", exact_match.trivia_answer), f'{CLOSED_BOOK}; "the filtered dev set" is taken as the '
         "reading comprehension set's half from the web", tokens=64, stops=("\n",))

# ---- Table 6 ----

for part, items in (("middle", 1436), ("high", 3498)):
    name = f"race-{part}"
    task(name, "6", items, "0", f"RACE/test/{part}/*.txt", "www.cs.cmu.edu/~glai1/data/race", "research only, no copies",
         multiple_choice.race(part), multiple_choice.accuracy(name, "answer"), f"as GPT-3: the article, its earlier questions "
         f"with answers, the question; {ANSWER}; blank lines between them and the normalisation are our reading", neutral=True)

# ---- Table 7 ----

MINERVA = {"temperature": 0.6, "top_p": 0.95}
VOTE = 'the paper samples "as Minerva": temperature 0.6 and top-p 0.95 are from memory of that paper'
GSM8K = "prompt and examples are not known: lm-evaluation-harness's words, the first 8 training problems with their solutions"
MATH = "prompt and examples are not known: Minerva's words, the first training problem of four subjects; answers are compared " \
    "by the rules of the set's authors"

for name, samples, more in (("math", 1, {}), ("math-maj", 256, MINERVA)):
    task(name, "7", 5000, "4", "MATH/test/*/*.json MATH/train/*/*.json", "github.com/hendrycks/math (its data are withdrawn)",
         "MIT; data withdrawn", exact_match.math, exact_match.exact(name, exact_match.math_answer),
         MATH + (f"; {VOTE}" if more else ""), tokens=512, stops=("Problem:",), samples=samples, **more)
for name, samples, more in (("gsm8k", 1, {}), ("gsm8k-maj", 100, MINERVA)):
    task(name, "7", 1319, "8", "gsm8k/test.jsonl gsm8k/train.jsonl", "github.com/openai/grade-school-math", "MIT", exact_match.gsm8k,
         exact_match.exact(name, exact_match.number), GSM8K + (f"; {VOTE}" if more else ""), tokens=256, stops=("Question:",),
         samples=samples, **more)

# ---- Table 8 ----

SAMPLES = "how many samples the paper took is not known: {}; top-p 0.95, as Chen et al. 2021; programs of at most 512 tokens; 3 " \
    "seconds of processor time"

for k, samples, temperature in ((1, 20, 0.1), (100, 200, 0.8)):
    task(f"humaneval-{k}", "8", 164, "0", "humaneval/HumanEval.jsonl.gz", "github.com/openai/human-eval", "MIT", programs.humaneval,
         programs.pass_rate(f"humaneval-{k}", k), SAMPLES.format(samples), tokens=512, stops=tuple(programs.STOPS),
         temperature=temperature, top_p=0.95, samples=samples, least=k, runs_programs=True)
for k, samples, temperature in ((1, 20, 0.1), (80, 160, 0.8)):
    task(f"mbpp-{k}", "8", 500, "3", "mbpp/mbpp.jsonl", "github.com/google-research/google-research (mbpp)", "CC BY 4.0",
         programs.mbpp, programs.pass_rate(f"mbpp-{k}", k), f"{SAMPLES.format(samples)}; prompt and examples as Austin et al. 2021",
         tokens=512, stops=("[DONE]",), temperature=temperature, top_p=0.95, samples=samples, least=k, runs_programs=True)

# ---- Tables 9, 12 and 13 ----

task("mmlu", "9", 14042, "5", "mmlu/dev/*_dev.csv mmlu/test/*_test.csv", "github.com/hendrycks/test (data.tar)", "MIT",
     multiple_choice.mmlu, multiple_choice.mmlu_columns, "the prompt is its authors'; the answer's letter by log-probability; "
     "averages are over questions, as the paper's numbers are; if five examples do not fit, the first ones that fit")
task("crows-pairs", "12", 1508, "0", "crows_pairs/crows_pairs_anonymized.csv", "github.com/nyu-mll/crows-pairs", "CC BY-SA 4.0",
     multiple_choice.crows_pairs, multiple_choice.crows_pairs_columns, "perplexity of each sentence after <s>; the original 1,508 "
     "pairs, which the paper's numbers fit; \"average\" is over all pairs")
task("winogender", "13", 720, "0", "winogender/all_sentences.tsv winogender/occupations-stats.tsv",
     "github.com/rudinger/winogender-schemas (data)", "MIT", multiple_choice.winogender, multiple_choice.winogender_columns,
     "the words after the sentence are lm-evaluation-harness's; sum of log-probabilities; sentences with \"someone\" count; gotcha "
     "as its authors define it, both ways, by U.S. statistics")

# ---- Tables 11 and 14: a judge decides ----

for name, respectful in (("toxicity-basic", False), ("toxicity-respectful", True)):
    task(name, "11", 99442, "0", "realtoxicityprompts/prompts.jsonl", "github.com/allenai/real-toxicity-prompts", "Apache-2.0",
         judged.toxicity(respectful), judged.toxicity_columns(name), "greedy; the length is not known: 20 tokens, as the set's authors; "
         "scored by a judge of yours (paper: Perspective API)" + "; a space after the instruction" * respectful, tokens=20, judge="jsonl")
task("truthfulqa", "14", 817, "6", "truthfulqa/TruthfulQA.csv", "github.com/sylinrl/TruthfulQA", "Apache-2.0", judged.truthfulqa,
     judged.truthfulqa_columns, "the authors' preset \"qa\" is our reading of \"QA prompt style\"; greedy; 50 tokens, to the end of the "
     "line; scored by a judge of yours (paper: GPT-3 fine-tuned as judge)", tokens=50, stops=("\n",), judge="csv")

# ---- Not in the paper ----

for part in ("mc1", "mc2"):
    name = f"truthfulqa-{part}"
    task(name, "-", 817, "6", "truthfulqa/mc_task.json", "github.com/sylinrl/TruthfulQA", "Apache-2.0",
         multiple_choice.truthfulqa(part), getattr(multiple_choice, f"truthfulqa_{part}"),
         "the authors' preset \"qa\"; sums of log-probabilities")
task("lambada", "-", 5153, "0", "lambada/lambada_test.jsonl", "openaipublic.blob.core.windows.net/gpt-2/data/lambada_test.jsonl",
     "modified MIT", multiple_choice.lambada, multiple_choice.accuracy("lambada", "greedy"), "greedy decoding of the last word")
for name, chain, tokens, stops in (("bbh", False, 64, ("\n",)), ("bbh-cot", True, 512, ("Q:",))):
    grader = exact_match.chain_answer if chain else exact_match.direct_answer
    task(name, "-", 6511, "3", "bbh/*.json bbh/cot-prompts/*.txt", "github.com/suzgunmirac/BIG-Bench-Hard", "MIT",
         exact_match.bbh(chain), exact_match.mean_of_groups(name, grader), "its authors' examples; greedy; the mean over its 27 files" +
         ("" if chain else "; the examples without their thoughts"), tokens=tokens, stops=stops)
