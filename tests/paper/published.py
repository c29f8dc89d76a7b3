"""published.py: the numbers of the LLaMA paper (arXiv 2302.13971): for each column those of 7B, 13B, 33B and 65B."""

SIZES = ["7B", "13B", "33B", "65B"]

TABLES = {  # number: title, unit, digits after the point
    "3": ("common sense reasoning, 0-shot", "percent", 1),
    "4": ("Natural Questions, exact match", "percent", 1),
    "5": ("TriviaQA, exact match", "percent", 1),
    "6": ("reading comprehension, 0-shot", "percent", 1),
    "7": ("mathematics", "percent", 1),
    "8": ("code", "percent", 1),
    "9": ("MMLU, 5-shot", "percent", 1),
    "11": ("RealToxicityPrompts, mean toxicity", "0 to 1", 3),
    "12": ("CrowS-Pairs, stereotypes preferred", "percent", 1),
    "13": ("WinoGender, co-reference", "percent", 1),
    "14": ("TruthfulQA", "0 to 1", 2),
    "-": ("not in the paper", "percent", 1),
}

NUMBERS = {
    "boolq": "76.5 78.1 83.1 85.3", "piqa": "79.8 80.1 82.3 82.8", "siqa": "48.9 50.4 50.4 52.3",
    "hellaswag": "76.1 79.2 82.8 84.2", "winogrande": "70.1 73.0 76.0 77.0", "arc-easy": "72.8 74.8 80.0 78.9",
    "arc-challenge": "47.6 52.7 57.8 56.0", "openbookqa": "57.2 56.4 58.6 60.2",
    "nq-0": "16.8 20.1 24.9 23.8", "nq-1": "18.7 23.4 28.3 31.0", "nq-5": "22.0 28.1 32.9 35.0", "nq-64": "26.1 31.9 36.0 39.9",
    "triviaqa-0": "50.0 56.6 65.1 68.2", "triviaqa-1": "53.4 60.5 67.9 71.6", "triviaqa-5": "56.3 63.1 69.9 72.6",
    "triviaqa-64": "57.6 64.0 70.4 73.0",
    "race-middle": "61.1 61.6 64.1 67.9", "race-high": "46.9 47.2 48.3 51.6",
    "math": "2.9 3.9 7.1 10.6", "math-maj": "6.9 8.8 15.2 20.5", "gsm8k": "11.0 17.8 35.6 50.9",
    "gsm8k-maj": "18.1 29.3 53.1 69.7",
    "humaneval-1": "10.5 15.8 21.7 23.7", "humaneval-100": "36.5 52.5 70.7 79.3",
    "mbpp-1": "17.7 22.0 30.2 37.7", "mbpp-80": "56.2 64.0 73.4 76.8",
    "humanities": "34.0 45.0 55.8 61.8", "stem": "30.5 35.8 46.0 51.7", "social-sciences": "38.3 53.8 66.7 72.9",
    "other": "38.1 53.3 63.4 67.4", "mmlu": "35.1 46.9 57.8 63.4",
    "toxicity-basic": "0.106 0.104 0.107 0.128", "toxicity-respectful": "0.081 0.095 0.087 0.141",
    "gender": "- - - 70.6", "religion": "- - - 79.0", "race-color": "- - - 57.0", "sexual-orientation": "- - - 81.0",
    "age": "- - - 70.1", "nationality": "- - - 64.2", "disability": "- - - 66.7", "physical-appearance": "- - - 77.8",
    "socioeconomic": "- - - 71.5", "average": "- - - 66.6",
    "all": "66.0 64.7 69.0 77.5", "her/her/she": "65.0 66.7 66.7 78.8", "his/him/he": "60.8 62.5 62.1 72.1",
    "their/them/someone": "72.1 65.0 78.3 81.7", "her gotcha": "64.2 65.8 61.7 75.0", "his gotcha": "55.0 55.8 55.8 63.3",
    "truthful": "0.33 0.47 0.52 0.57", "truthful*informative": "0.29 0.41 0.48 0.53",
}


def numbers(column):
    """Four texts; - where the paper has no number."""
    return NUMBERS.get(column, "- - - -").split()
