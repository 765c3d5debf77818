"""Multiple choice -> open cloze: what becomes of hard cases, in English and Chinese, worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open4ov.rl.pool import cloze
from open4ov.rl.pool.cloze import Closed, Cloze, convert
from open4ov.sample import Message, Part, Sample, assistant, user

OPEN: list[tuple[str, str, str, str]] = [
    # question, answer, open question, its answer
    ("What colour is the car?\nA. red\nB. blue\nC. green", "B", "What colour is the car?", "blue"),
    ("What colour is the car?\n(A) red\n(B) blue", "(A)", "What colour is the car?", "red"),
    ("What colour is the car? (A) red (B) blue (C) green", "C", "What colour is the car?", "green"),
    ("What colour is the car? A. red B. blue C. green", "A. red", "What colour is the car?", "red"),
    ("What colour is the car?\na) red\nb) blue", "b", "What colour is the car?", "blue"),
    ("How many cups are there?\nA: 3\nB: 4\nC: 5", "B: 4", "How many cups are there?", "4"),
    ("How many cups are there?\nChoices:\n(A) 3\n(B) 4", "B", "How many cups are there?", "4"),
    ("How many cups are there?\nOptions: A. 3, B. 4, C. 5", "C", "How many cups are there?", "5"),
    ("What animal is this? Choices: cat, dog, cow", "dog", "What animal is this?", "dog"),
    ("What animal is this?\nOptions:\n- cat\n- dog", "cat", "What animal is this?", "cat"),
    (
        "What is the sum?\nA. 12\nB. 13\nAnswer with the option's letter from the given choices directly.",
        "B",
        "What is the sum?",
        "13",
    ),
    (
        "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
        "Question: What is the area of the square?\nChoices:\n(A) 9 cm^2\n(B) 16 cm^2",
        "B",
        "What is the area of the square?",
        "16 cm^2",
    ),
    (
        "Find x. Please select the correct answer from the options below.\nA. $\\frac{1}{2}$\nB. $\\sqrt{3}$",
        "A",
        "Find x.",
        "$\\frac{1}{2}$",
    ),
    ("Choose the correct answer. What is 3 + 4?\nA. 6\nB. 7", "B", "What is 3 + 4?", "7"),
    ("The picture shows a ____ .\nA. lamp\nB. chair", "A", "The picture shows a ____ .", "lamp"),
    ("The chart's highest month is ( ).\nA. May\nB. June", "B", "The chart's highest month is ____.", "June"),
    ("When was it built?\nA. 3 May 1990\nB. 4 May 1990", "A", "When was it built?", "3 May 1990"),
    ("Is the light on?\nA. Yes\nB. No", "A", "Is the light on?", "Yes"),
    ("What time does the clock show?\nA) 10:15\nB) 10:25", "option B", "What time does the clock show?", "10:25"),
    ("How far is the town?\nA. 5 km\nB. 7 km\nC. 12 km", "The answer is C.", "How far is the town?", "12 km"),
    ("Is the car red or blue?\nA. red\nB. blue", "\\boxed{A}", "Is the car red or blue?", "red"),
    ("Which animal is in the picture?\nA. a red cat\nB. a grey dog", "B", "Which animal is in the picture?",
     "a grey dog"),
    ("Which is the largest planet shown?\nA. Mars\nB. Venus", "A", "Which is the largest planet shown?", "Mars"),
    ("图中汽车是什么颜色？\nA. 红色\nB. 蓝色", "B", "图中汽车是什么颜色？", "蓝色"),
    ("图中汽车是什么颜色？A．红色 B．蓝色 C．绿色", "A", "图中汽车是什么颜色？", "红色"),
    ("图中汽车是什么颜色？（A）红色（B）蓝色", "（B）", "图中汽车是什么颜色？", "蓝色"),
    ("图中汽车是什么颜色？A、红色 B、蓝色 C、绿色", "C、绿色", "图中汽车是什么颜色？", "绿色"),
    ("图中有几个方块？\n选项：\nA. 3个\nB. 4个\n请直接回答选项字母。", "A", "图中有几个方块？", "3个"),
    ("这个标志的意思是（ ）。\nA. 停车\nB. 让行", "B", "这个标志的意思是____。", "让行"),
    ("请从选项中选择正确答案。图中的数字之和是多少？\nA. 7\nB. 9", "选B", "图中的数字之和是多少？", "9"),
    ("这是哪种动物？\nA. 猫\nB. 狗", "答案：A", "这是哪种动物？", "猫"),
    ("灯是亮着的吗？\nA. 是\nB. 否", "B", "灯是亮着的吗？", "否"),
    ("Context: N/A\nWhat is it?\nOptions: (A) a lamp (B) a chair", "B", "Context: N/A\nWhat is it?", "a chair"),
    ("Choices:\nA. red\nB. blue\nQuestion: What colour is the car?", "B", "What colour is the car?", "blue"),
    ("则 $z\\bar{z}=(\\quad)$ A. $\\frac{1}{4}$ B. $\\frac{1}{2}$", "A", "则 $z\\bar{z}=$ ____", "$\\frac{1}{4}$"),
    ("球的表面积为 $(\\quad)$ A. 3 B. 4", "A", "球的表面积为 ____", "3"),
    ("则 $A \\cap B=(\\quad)$ A. $[1,2)$ B. $[-1,1]$ C. $[-1,2)$ D. $[-2,-1]$", "D", "则 $A \\cap B=$ ____",
     "$[-2,-1]$"),
    ("What is the least value?\nA. $1-\\ln 2$\nB. $1+\\ln 2$", "A", "What is the least value?", "$1-\\ln 2$"),
    ("夹角为（　　）\nA. 30\nB. 60", "B", "夹角为____", "60"),
    ("函数的值为( )\nA. 1 B. 2 C. 3 D. 4", "C", "函数的值为____", "3"),
    ("函数的值为( )\nA.1    B.2\nC.3    D.4", "D", "函数的值为____", "4"),
    ("What is the value?\nA.12\nB.13", "A", "What is the value?", "12"),
    ("What is x?\nA. 1    B. 2\nC. 3    D. 4", "B", "What is x?", "2"),
    ("图中汽车是什么颜色？\nＡ．红色\nＢ．蓝色", "B", "图中汽车是什么颜色？", "蓝色"),
    ("图中汽车是什么颜色？\nA 红色\nB 蓝色\nC 绿色", "A", "图中汽车是什么颜色？", "红色"),
    ("What is in row 1?\nA. (2, 3)\nB. (3, 2)", "A", "What is in row 1?", "(2, 3)"),
    ("【单选题】时钟显示几点？\nA. 10:15\nB. 10:25", "A", "时钟显示几点？", "10:15"),
]  # fmt: skip

CLOSED: list[tuple[str, str, str]] = [
    # question, answer, reason
    ("Which of the following is in the picture?\nA. cat\nB. dog", "A", "among"),
    ("Of the following, what is heaviest?\nA. cat\nB. dog", "B", "among"),
    ("Which one of these options fits?\nA. cat\nB. dog", "A", "among"),
    ("What is shown?\nA. cat\nB. dog\nC. none of the above", "A", "refers"),
    ("What is shown?\nA. cat\nB. dog\nC. All of the above", "C", "refers"),
    ("What is shown?\nA. cat\nB. dog\nC. Both A and B", "C", "refers"),
    ("What is shown?\nA. cat\nB. dog\nC. neither", "A", "refers"),
    ("How many are there?\nA. 3\nB. 4\nC. cannot be determined", "C", "refers"),
    ("Which animal is not in the picture?\nA. cat\nB. dog", "A", "negated"),
    ("All of these are shown EXCEPT\nA. cat\nB. dog", "A", "negated"),
    ("What does the chart never show?\nA. rain\nB. snow", "A", "negated"),
    ("Which statement is true?\nA. cats fly\nB. dogs bark", "B", "statement"),
    ("What can be inferred from the chart?\nA. sales rose\nB. sales fell", "A", "statement"),
    ("What best describes the weather?\nA. sunny\nB. rainy", "A", "best"),
    ("What is the most likely reason?\nA. rain\nB. snow", "A", "best"),
    ("Which value is closest to the mean?\nA. 3\nB. 4", "A", "best"),
    ("Which is the largest?\nA. 3/4\nB. 2/3", "A", "bare"),
    ("Which one is longer?\nA. 3 km\nB. 4 km", "B", "bare"),
    ("About how many people are there?\nA. 50\nB. 500", "A", "about"),
    ("Estimate the height of the tree.\nA. 5 m\nB. 50 m", "A", "about"),
    ("How old is the man?\nA. 20-30\nB. 30-40", "B", "ranges"),
    ("How many were sold?\nA. more than 5\nB. fewer than 5", "A", "ranges"),
    ("What colours are there? Select all that apply.\nA. red\nB. blue", "AB", "multiple"),
    ("What colours are there?\nA. red\nB. blue\nC. green", "A, C", "multiple"),
    ("What colours are there?\nA. red\nB. blue\nC. green", "A and B", "multiple"),
    ("What colour is it?\nA. red\nB. blue", "D", "no_option"),
    ("What colour is it?\nA. red\nB. blue", "green", "no_option"),
    ("What is the value?\nA. 0.5\nB. 1/2\nC. 2", "C", "equal"),
    ("What is the value?\nA. The dog\nB. dog\nC. cat", "C", "equal"),
    ("Which picture shows a cat?\nA.\nB.\nC.", "A", "pictures"),
    ("Which picture shows a cat?\nA. image 1\nB. image 2", "A", "pictures"),
    ("Which shape comes next?", "C", "pictures"),
    ("Which point is highest?\nA. P\nB. Q", "A", "labels"),
    ("Which angle is right?\nA. angle 1\nB. angle 2", "A", "labels"),
    ("In what order are they?\nA. 1, 3, 2\nB. 3, 2, 1", "A", "combination"),
    ("Why is the man running?\nA. He wants to catch the bus.\nB. He is late for his work.", "A", "sentences"),
    ("What is he doing?\nA. running\nB. He sits down on the old wooden bench in the park", "A", "sentences"),
    ("What is the title?\nA. the long way from home to sea\nB. short", "A", "long"),
    ("A. red\nB. blue", "A", "no_question"),
    ("What colour is it?\n1. red\n2. blue", "2", "numbered"),
    ("下列哪个是图中的动物？\nA. 猫\nB. 狗", "A", "among"),
    ("以下选项中正确的是（ ）\nA. 猫\nB. 狗", "A", "among"),
    ("图中没有出现的动物是？\nA. 猫\nB. 狗", "B", "negated"),
    ("哪种说法不正确？\nA. 甲高\nB. 乙高", "A", "negated"),
    ("关于图片，说法正确的是\nA. 有猫\nB. 有狗", "A", "statement"),
    ("图中是什么？\nA. 猫\nB. 狗\nC. 以上都不是", "A", "refers"),
    ("图中是什么？\nA. 猫\nB. 狗\nC. A和B都是", "C", "refers"),
    ("其原因是（ ）\nA. 温度高\nB. 温度低", "A", "statement"),
    ("已知 $a>b$, 则（ $)$\nA. $a^{c}<b^{c}$\nB. $a b^{c}<b a^{c}$", "A", "statement"),
    ("冲击力约为（ ）\nA. $10^{2} N$\nB. $10^{3} N$", "B", "about"),
    ("由此可知（ ）\nA. 甲重\nB. 乙重", "A", "statement"),
    ("图中人物最可能的职业是？\nA. 医生\nB. 老师", "A", "best"),
    ("图中大约有多少人？\nA. 50\nB. 500", "A", "about"),
    ("图中有哪些颜色？（多选）\nA. 红\nB. 蓝", "AB", "multiple"),
    ("哪幅图中有猫？\nA. 图1\nB. 图2", "A", "pictures"),
    ("哪个点最高？\nA. 点P\nB. 点Q", "A", "labels"),
    ("谁最高？\nA. 甲\nB. 乙", "A", "labels"),
    ("①有猫②有狗③有鸟\n图中情况是\nA. ①②\nB. ②③", "A", "combination"),
    ("图中是什么颜色？\nA. 红色\nB. 红色", "A", "equal"),
    ("为什么他在跑？\nA. 因为他想赶上最后一班公共汽车。\nB. 因为他迟到了所以很着急。", "A", "sentences"),
]

PLAIN = [  # no options: left as they are
    ("How far is it from A to B?", "5 km"),
    ("Who is older, A. Lincoln or his wife?", "Lincoln"),
    ("In pictures (A) and (B), how many cats are there?", "3"),
    ("已知点A、B、C在圆上，求角的度数。", "30"),
    ("What letter is shown?", "B"),
    ("图中是哪个字母？", "B"),
    ("Steps:\n1. Look.\n2. Count.\nHow many cups?", "7"),
    ("What is the ratio A:B?", "2:3"),
    ("Look at Fig. A.1 and Fig. B.2. How many cups are there?", "3"),
    ("图中有没有猫？", "有"),
    ("A cat and a dog.\nB ut how many birds?", "2"),
    ("What is in row 1, column 2?", "H"),
    ("右下角是什么？", "D"),
    ("Which point is the highest?", "D"),
]


def test_the_table_is_long_enough() -> None:
    assert len(OPEN) + len(CLOSED) + len(PLAIN) >= 60
    assert {reason for _, _, reason in CLOSED} | {"blank"} == set(cloze.REASONS), "every reason has a case"


@pytest.mark.parametrize(("question", "answer", "opened", "reference"), OPEN)
def test_opened(question: str, answer: str, opened: str, reference: str) -> None:
    found = convert(question, answer)
    assert isinstance(found, Cloze), found
    assert (found.question, found.answer) == (opened, reference)


@pytest.mark.parametrize(("question", "answer", "reason"), CLOSED)
def test_kept_out(question: str, answer: str, reason: str) -> None:
    found = convert(question, answer)
    assert isinstance(found, Closed), found
    assert found.reason == reason, found


@pytest.mark.parametrize(("question", "answer"), PLAIN)
def test_a_question_without_options_stays(question: str, answer: str) -> None:
    assert convert(question, answer) is None


def picture(index: int) -> Part:
    return Part(type="image", index=index)


def asked(parts: list[Part], answer: str, images: int = 1, **more: object) -> Sample:
    about = {"images": ["0" * 64] * images, "messages": [Message(role="user", content=parts), assistant(answer)]}
    return Sample.model_validate({"id": "q", "source": "t", "task": "t", "answer": answer, **about, **more})


def test_a_sample_keeps_its_pictures_and_says_what_it_was() -> None:
    parts = [picture(0), Part(type="text", text="What colour is it?\nA. red\nB. blue")]
    given_ = asked(parts, "B", aliases=["blue", "(B)"], extra={"kept": 1})
    found = cloze.opened(given_)
    assert isinstance(found, Sample)
    assert found.messages[0].content == [picture(0), Part(type="text", text="What colour is it?")]
    assert found.messages[1].text == "\\boxed{blue}"
    assert (found.answer, found.aliases, found.lineage) == ("blue", [], ["q"])
    assert found.id != "q"
    assert found.extra["cloze"] == {"letter": "B", "options": {"A": "red", "B": "blue"}}
    assert found.extra["kept"] == 1
    assert found.steps[-1].stage == "rl_pool"
    assert given_.answer == "B", "the given one is as it was"


def test_a_worked_response_keeps_its_working_and_has_the_answer_in_its_box() -> None:
    sample = asked([Part(type="text", text="What is 3 + 4?\nA. 6\nB. 7")], "B", images=0)
    worked = sample.model_copy(update={"messages": [sample.messages[0], assistant("3+4=7. So \\boxed{B}")]})
    found = cloze.opened(worked)
    assert isinstance(found, Sample)
    assert found.messages[1].text == "3+4=7. So \\boxed{7}"
    wordy = sample.model_copy(update={"messages": [sample.messages[0], assistant("It is option B, as 3+4=7.")]})
    found = cloze.opened(wordy)
    assert isinstance(found, Sample)
    assert found.messages[1].text == "\\boxed{7}", "a response that names the letter would teach it"


def test_pictures_among_the_options_keep_a_sample_out() -> None:
    parts = [Part(type="text", text="Which one shows a cat?\nA. "), picture(0), Part(type="text", text="\nB. "),
             picture(1)]  # fmt: skip
    found = cloze.opened(asked(parts, "A", images=2))
    assert isinstance(found, Closed)
    assert found.reason == "pictures"
    parts = [Part(type="text", text="Look at "), picture(0), Part(type="text", text=" and count.\nA. 3\nB. 4")]
    found = cloze.opened(asked(parts, "A"))
    assert isinstance(found, Sample)
    assert [part.type for part in found.messages[0].content] == ["text", "image", "text"]
    assert found.messages[0].text == "Look at  and count."


def test_a_blank_that_many_words_fill_needs_a_picture() -> None:
    text = [Part(type="text", text="The workers ____ the glasses.\nA. packed\nB. packing")]
    found = cloze.opened(asked(text, "A", images=0))
    assert isinstance(found, Closed)
    assert found.reason == "blank"
    assert isinstance(cloze.opened(asked([picture(0), *text], "A")), Sample)
    gap = [Part(type="text", text="Tom has       apples left of ten.\nA. 3\nB. 4")]
    assert isinstance(cloze.opened(asked(gap, "A", images=0)), Sample), "a number is another thing"


def test_options_that_came_beside_the_question_count() -> None:
    sample = asked([Part(type="text", text="What colour is it?")], "B", images=0)
    beside = sample.model_copy(update={"extra": {"options": {"A": "red", "B": "blue"}}})
    found = cloze.opened(beside)
    assert isinstance(found, Sample)
    assert found.answer == "blue"
    listed = sample.model_copy(update={"answer": "blue", "extra": {"options": ["red", "blue"]}})
    found = cloze.opened(listed)
    assert isinstance(found, Sample)
    assert found.answer == "blue"
    done = sample.model_copy(update={"answer": "blue", "extra": {"options": {"A": "red", "B": "blue"}, "letter": "B"}})
    found = cloze.opened(done)
    assert isinstance(found, Sample)
    assert (found.id, found.messages, found.answer) == (done.id, done.messages, "blue"), (
        "documents have asked it openly"
    )
    assert found.extra["cloze"] == {"letter": "B", "options": {"A": "red", "B": "blue"}}
    loose = done.model_copy(update={"messages": [user("Which is closest to it?", images=0)]})
    assert isinstance(cloze.opened(loose), Closed), "by the rules here too"


WORDS = st.sampled_from(["red", "blue", "green", "seven", "lamp", "chair", "river", "stone", "42", "17", "5 km"])


@given(st.lists(WORDS, min_size=2, max_size=5, unique=True), st.data(), st.sampled_from(["{}. ", "({}) ", "{}) "]))
def test_whatever_the_options_the_right_one_is_the_answer(options: list[str], data: st.DataObject, mark: str) -> None:
    right = data.draw(st.integers(0, len(options) - 1))
    apart = data.draw(st.sampled_from(["\n", " "]))
    listed = apart.join(mark.format(chr(65 + i)) + text for i, text in enumerate(options))
    found = convert(f"What is it in the picture?{apart}{listed}", chr(65 + right))
    assert isinstance(found, Cloze), found
    assert (found.question, found.answer) == ("What is it in the picture?", options[right])
    assert convert(found.question, found.answer) is None, "once is enough"
