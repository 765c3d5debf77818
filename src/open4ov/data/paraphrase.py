"""Do two questions ask the same thing in other words? By rules, in English and Chinese, without a model.

A question becomes a bag of what it is about: words without endings and fillers, numbers as digits, Chinese characters
without particles; a few dozen common ways to ask (how many, number of, 几个) are one token each. Two bags are compared by
their weighted overlap (Dice). How much is needed depends on the answers: equal answers are evidence of their own,
different ones ask for nearly the same wording. Two things are never overruled: different numbers, and words that turn a
question round (left for right, 最大 for 最小, a "not" on one side).

What it cannot see: synonyms outside its list. See docs/data.md for what it catches and what not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from open4ov.answers import number, same

SAME_ANSWER, UNKNOWN_ANSWER, OTHER_ANSWER = 0.45, 0.62, 0.9
"""Overlap from which two questions are one, by what is known of their answers."""

_WAYS: dict[str, tuple[str, str]] = {
    # token -> (English patterns, Chinese patterns), tried in this order
    "<count>": (r"how many|(?:total )?number of|count(?: of)?|how large is the (?:group|set)", r"有?多少(?:个|只|辆|人|名|条|张|棵)?|几(?:个|只|辆|名|条|张|棵|本|位|人|种)|数量|个数|总数|共有?"),
    "<much>": (r"how much|what (?:is the )?amount(?: of)?|amount of", r"多大|多重|多长|多高"),
    "<colour>": (r"colou?red|colou?rs?|hue|shade", r"颜色|色彩|色调|什么色"),
    "<most>": (r"largest|biggest|greatest|highest|maximum|max|tallest|most", r"最(?:大|多|高)|最大值|最高值"),
    "<least>": (r"smallest|lowest|minimum|min|least|fewest|shortest", r"最(?:小|少|低|矮)|最小值|最低值"),
    "<where>": (r"where|location of|position of|in (?:which|what) (?:place|location)|located|which side", r"哪里|哪儿|何处|什么地方|位置|位于|在哪"),
    "<who>": (r"who|which person|whose", r"是?谁|哪位|何人"),
    "<when>": (r"when|(?:in )?(?:what|which) year|what date", r"何时|什么时候|哪一?年|哪年|几时"),
    "<why>": (r"why|what is the (?:reason|cause)|for what reason|what causes", r"为什么|为何|原因|何以"),
    "<doing>": (r"what (?:is|are)(?= [^?]{1,30} doing)|doing|(?:what )?activity|engaged in|performing", r"在做什么|在干什么|干嘛|从事什么活动|做着什么"),
    "<mean>": (r"means?|meaning of|meaning|signif(?:y|ies)|indicates?|stands? for|represents?|denotes?|tell(?:s)? (?:you|the driver)", r"含义|意思|意味着|表示|代表|意义|说明"),
    "<author>": (r"author(?:ed)?|wrote|written|writer", r"作者|写的?|所著|著"),
    "<capital>": (r"capital(?: city)?", r"首都"),
    "<left>": (r"left(?:most)?(?:-hand)?", r"左(?:边|侧|面|方)?"),
    "<right>": (r"right(?:most)?(?:-hand)?", r"右(?:边|侧|面|方)?"),
    "<above>": (r"above|on top of|over", r"上(?:面|方|边)"),
    "<below>": (r"below|beneath|under(?:neath)?", r"下(?:面|方|边)"),
    "<before>": (r"before|prior to|preceding", r"之前|以前|前面"),
    "<after>": (r"after|following|subsequent to", r"之后|以后|后面"),
    "<more>": (r"more|increase[sd]?|increasing|rise[sn]?|rose|grew|grow", r"增加|上升|增长|升高|提高"),
    "<less>": (r"fewer|less|decrease[sd]?|decreasing|fall|fell|drop(?:ped)?|declined?", r"减少|下降|降低|减小"),
    "<not>": (r"not|n't|never|without|except|incorrect|false|untrue|isn|doesn|cannot", r"不|没有?|未|非|除了|错误"),
    "<true>": (r"correct|true|accurate", r"正确|对的|属实"),
    "<sum>": (r"sum|total|altogether|in all|combined|add(?:ed)?", r"总和|之和|合计|一共|总共|相加"),
    "<difference>": (r"difference|exceed[s]?|gap", r"差值|之差|相差|差"),
    "<mean value>": (r"average|mean value", r"平均值?|均值"),
    "<car>": (r"cars?|vehicles?|automobiles?", r"汽车|车辆|轿车|小车"),
    "<man>": (r"m[ae]n|guy|male", r"男人|男子|男性|男士"),
    "<woman>": (r"wom[ae]n|lady|female", r"女人|女子|女性|女士"),
    "<child>": (r"child(?:ren)?|kids?", r"孩子|儿童|小孩|小朋友"),
    "<people>": (r"people|persons?|individuals?|humans?", r"人物|行人|人们|人"),
    "<picture>": (r"pictures?|images?|photos?|photographs?|figures?|pictured|depicted", r"图片|图像|照片|图中|画面|图里|图上|图"),
    "<begin>": (r"start(?:s|ed)?|begin[s]?|began|begun", r"开始|起始"),
    "<buy>": (r"buy|bought|purchase[sd]?", r"购买|买"),
    "<cost>": (r"price|cost[s]?|expensive", r"价格|价钱|多少钱|售价"),
    "<wear>": (r"wear(?:s|ing)?|dressed in|has on", r"穿(?:着|戴)?|戴着?|身着"),
    "<hold>": (r"hold(?:s|ing)?|in (?:his|her|their|the) hands?|carry(?:ing)?|carries", r"拿着?|握着?|手中|手里|手持"),
    "<name>": (r"named?|names|called|known as", r"名字|名称|叫做?|称为"),
    "<kind>": (r"kind|type|sort|species|category", r"种类|类型|类别|品种|哪种|哪类|什么样的?"),
    "<speed>": (r"speed|velocity|fast", r"速度|时速|多快"),
    "<do>": (r"should (?:the driver |you |i |one )?do|action|respond|reaction|what to do", r"怎么办|该?怎么做|如何应对|采取什么措施|如何处理|怎么处理|应对措施"),
}  # fmt: skip

_TURNS = (
    ("<most>", "<least>"), ("<left>", "<right>"), ("<above>", "<below>"), ("<before>", "<after>"), ("<more>", "<less>"),
    ("<man>", "<woman>"), ("<sum>", "<difference>"), ("<who>", "<when>"), ("<where>", "<when>"), ("<count>", "<colour>"),
    ("<colour>", "<where>"), ("<why>", "<when>"), ("<mean>", "<do>"),
)  # fmt: skip
"""Tokens that ask for different things: one on each side, and the questions differ."""

_LIGHT = {"<picture>": 0.1, "<kind>": 0.3, "<name>": 0.3, "<true>": 0.3, "<mean>": 0.5, "<count>": 0.7, "<where>": 0.7}

_FILLERS = frozenset(
    "a an the of in on at to is are was were be been do does did can could would should will shall may might what which "
    "who whom that this these those there it its please tell me us you your i we they he she his her their as by for "
    "from with and or if then than into about shown show seen see visible given present appear following option answer "
    "question one here have has had find identify name state determine describe select choose look according based "
    "all any some so such very just exactly currently type".split()
)
_PARTICLES = frozenset(
    "的了吗呢啊吧是在有和与及或请问这那哪什么个只辆些中里上内为所被把给对于从到请一下时候怎样如何以其它你我他她们可能会要应该属于"
)

_ENGLISH = {token: re.compile(rf"\b(?:{english})\b") for token, (english, _) in _WAYS.items()}
_CHINESE = {token: re.compile(chinese) for token, (_, chinese) in _WAYS.items()}
_NEGATED = re.compile(r"n't\b")
_PIECES = re.compile(r"<[a-z ]+>|\d+(?:[.,]\d+)*(?:/\d+)?|[㐀-鿿]|[^\W\d_]+")


@dataclass(frozen=True)
class Question:
    """A question as `alike` compares it. `answer` None: not known."""

    bag: Mapping[str, int]
    numbers: tuple[str, ...]
    answer: str | None
    plain: str


@lru_cache(maxsize=1 << 16)
def _read(text: str) -> tuple[dict[str, int], tuple[str, ...], str]:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())
    marked = _NEGATED.sub(" not", plain)
    for token in _WAYS:
        marked = _ENGLISH[token].sub(f" {token} ", marked)
        marked = _CHINESE[token].sub(f" {token} ", marked)
    bag: Counter[str] = Counter()
    numbers: list[str] = []
    for piece in _PIECES.findall(marked):
        if piece[0] == "<":
            bag[piece] = 1
        elif (value := _value(piece)) is not None:
            numbers.append(value)
            bag[value] += 1
        elif piece not in _FILLERS and piece not in _PARTICLES:
            bag[_stem(piece)] += 1
    return dict(bag), tuple(sorted(numbers)), re.sub(r"\W+", "", plain)


def question(text: str, answer: str | None = None, options: Sequence[str] = ()) -> Question:
    """Reads a question. A letter as the answer stands for its option (A is the first)."""
    if answer is not None and len(answer.strip()) == 1 and answer.strip().isalpha() and options:
        place = ord(answer.strip().upper()) - ord("A")
        answer = options[place] if 0 <= place < len(options) else answer
    bag, numbers, plain = _read(text)
    return Question(bag, numbers, answer, plain)


def alike(left: Question, right: Question, weights: Mapping[str, float] | None = None) -> tuple[bool, float]:
    """Whether they ask the same, and the overlap of their bags in [0, 1]. `weights`: of rare words more than of common."""
    if left.plain and left.plain == right.plain:
        return _answers(left, right) is not False, 1.0
    shared = total = 0.0
    for token in left.bag.keys() | right.bag.keys():
        weight = weights.get(token, 1.0) if weights else _LIGHT.get(token, 1.0)
        a, b = left.bag.get(token, 0), right.bag.get(token, 0)
        shared += 2 * weight * min(a, b)
        total += weight * (a + b)
    overlap = shared / total if total else 0.0
    if left.numbers != right.numbers or _turned(left.bag, right.bag):
        return False, overlap
    agreed = _answers(left, right)
    needed = UNKNOWN_ANSWER if agreed is None else SAME_ANSWER if agreed else OTHER_ANSWER
    return overlap >= needed, overlap


def _answers(left: Question, right: Question) -> bool | None:
    if not left.answer or not right.answer:
        return None
    return same(left.answer, right.answer)


def _turned(left: Mapping[str, int], right: Mapping[str, int]) -> bool:
    if ("<not>" in left) != ("<not>" in right):
        return True
    for one, other in _TURNS:
        for a, b in ((one, other), (other, one)):
            if a in left and b not in left and b in right and a not in right:
                return True
    return False


def _value(piece: str) -> str | None:
    """Digits as they are, number words as digits; "one" and 一 are too common as fillers to be numbers."""
    if piece in ("one", "一", "〇", "零", "百", "十", "两"):
        return {"十": "10", "两": "2"}.get(piece)
    found = number(piece)
    return None if found is None else str(found)


def _stem(word: str) -> str:
    """An English word without its ending; others as they are."""
    if not word.isascii() or len(word) < 4:
        return word
    for ending, instead in (("ies", "y"), ("ied", "y"), ("ingly", ""), ("edly", ""), ("ing", ""), ("ed", ""),
                            ("ly", ""), ("es", ""), ("s", "")):  # fmt: skip
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)] + instead
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word.rstrip("e") if len(word) > 3 else word
