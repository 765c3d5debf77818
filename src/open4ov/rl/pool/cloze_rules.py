"""By what words a multiple-choice question shows that it makes no sense without its options, in English and Chinese.

One pattern a subject; `cloze.py` says in which order they are asked and what each means.
"""

from __future__ import annotations

import re

PICTURE = "\ufffc"
"""Stands for a picture in the text of a question"""

_I = re.IGNORECASE


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), _I)


ASKS_LETTER = _any(
    r"\bletters?\b",
    r"\bcharacter\b",
    r"\binitials?\b",
    r"\bgrade\b",
    r"\bvitamin\b",
    r"\bblood type\b",
    r"\b(?:which|what) (?:point|vertex|line|segment|bar|row|column|label|node|station|town|team|region|cell|door|"
    r"gate|seat)\b",
    r"\bwhat (?:is|stands|can you see|do you see|lies) (?:in|at|on|to|above|below|under|left|right|next|written|"
    r"beside)\b",
    r"字母",
    r"血型",
    r"哪[一]?个?(?:点|顶点|线|行|列|站|队)",
    r"(?:角|行|列|边|方|间)是什么",
)
"""Questions whose answer may be a single letter that stands in the picture"""

MULTIPLE = _any(
    r"(?:select|choose|pick|mark) all\b", r"all that apply", r"one or more (?:answers|options)", r"多选", r"不定项"
)
REFERS = _any(
    r"^(?:none|all|both|neither|either|any|some)\b(?: of (?:the|these|them|those).*| the (?:above|options).*| are .*"
    r"| (?:of )?(?:above|options|answers).*)?$",
    r"\bthe above\b",
    r"\bother options?\b",
    r"\b[A-H] (?:and|or|&) [A-H]\b",
    r"^(?:both|neither|either) [A-H]",
    r"\b(?:cannot|can't|can not|could not) be (?:determined|known|inferred|said)",
    r"\bnot enough information\b",
    r"\bimpossible to (?:tell|say|determine)",
    r"\bunable to determine",
    r"以上",
    r"上述",
    r"^都(?:是|不是|对|不对|有|没有)$",
    r"都不(?:是|对|正确)",
    r"[A-H]\s*[和与或及、]\s*[A-H]",
    r"^(?:无法|不能)(?:确定|判断|得知)",
    r"其他选项",
    r"均(?:是|不|正确|可)",
)
AMONG = _any(
    r"\b(?:which|what|who|where)(?: \w+){0,3}? of (?:the (?:following|options|choices|below|above)|these|those)\b",
    r"\bof the following\b",
    r"\bthe following\b.{0,40}$",
    r"\bwhich (?:option|choice|answer|alternative)s?\b",
    r"\bamong (?:the|these) (?:options|choices|following)\b",
    r"下列",
    r"以下",
    r"选项",
    r"下面(?:哪|各)",
    r"哪一?项",
    r"\bthese options\b",
)
NEGATED = _any(
    r"\b(?:which|what|who|where)\b[^.?!\n]*\b(?:not|never|cannot|no longer|incorrect|false|wrong|untrue|"
    r"isn't|aren't|doesn't|don't|can't|didn't|wasn't|weren't)\b",
    r"\bexcept\b",
    r"(?<!有)没有",
    r"(?<![是会能对应在属包])不(?:是|属于|正确|包括|能|可能|符合|会|同于|存在|在|包含|恰当|合适|对|应)",
    r"错误",
    r"有误",
    r"除.{0,12}(?:外|之外|以外)",
    r"未(?:出现|提到|包括)",
)
STATEMENT = _any(
    r"\bstatements?\b",
    r"\b(?:is|are) (?:true|correct|right|accurate|supported|valid)\b",
    r"\bcan (?:be|we|you) (?:infer|conclud)",
    r"\bcan be (?:seen|said|concluded|inferred|learned)",
    r"\b(?:best )?conclusion\b",
    r"\bclaims?\b",
    r"\bassertions?\b",
    r"说法",
    r"正确的是",
    r"叙述",
    r"描述",
    r"推断",
    r"判断",
    r"结论",
    r"表述",
    r"可以看出",
    r"符合题意",
    r"属于.{0,6}的是",
    r"真命题|假命题",
    r"(?:可知|推测|可得出?|表明|说明)[\W_]{0,8}$",
    r"原因(?:是|为)",
    r"可(?:以)?观察到",
    r"(?:则|那么|情况是|结果是)[\s_$(（)）\\]*$",
)
BEST = _any(
    r"\bbest\b",
    r"\bmost (?:likely|probable|probably|appropriate|suitable|accurate|accurately|plausible|reasonable|similar|"
    r"closely|logical)\b",
    r"\bclosest\b",
    r"\bnearest (?:to|value|number)\b",
    r"\blikely\b",
    r"\bprobably\b",
    r"\bmainly\b",
    r"\bprimar(?:y|ily)\b",
    r"\bcould be\b",
    r"\bmight be\b",
    r"\bshould be (?:chosen|filled|placed)",
    r"\b(?:fits?|matches)\b.{0,30}$",
    r"最(?:可能|合适|恰当|符合|接近|适合|准确|好|佳|有可能)",
    r"可能(?:是|的)",
    r"主要",
    r"应该?(?:填|选)",
    r"(?:填|选)入",
)
BARE = re.compile(
    r"\b(?:which|who)(?: one)? (?:is|are|has|have|was|weighs?|costs?|goes|comes)(?: the)?"
    r"(?: (?:more|most|fewer|fewest|less|least)(?: [a-z]+)?| [a-z]+(?:er|est))\s*[?:.]?\s*$"
    r"|^\s*(?:哪个|哪一个|谁|哪种)(?:最|更)[\u3400-\u9fff]{1,2}[?？]?\s*$",
    _I,
)
ABOUT = _any(
    r"\b(?:about|approximately|roughly|around|nearly|approx\.?) (?:how|what|when)\b",
    r"\bestimate",
    r"\bapproximate",
    r"\bapproximately\b",
    r"\broughly\b",
    r"大约",
    r"约为",
    r"估计",
    r"大概",
    r"左右",
    r"约(?:有|是|等于)",
)
RANGE = re.compile(
    r"^\D{0,4}\d[\d.,]*\s*\D{0,8}\s*(?:-|–|—|~|～|to|至|到)\s*\D{0,4}\d[\d.,]*\s*\D{0,12}$"
    r"|^(?:between|from)\b.*\d|^(?:more|less|fewer|greater|smaller|larger|higher|lower|over|under|above|below|at least|"
    r"at most|up to|not more)\b.*\d|^[<>≤≥]\s*\d"
    r"|^(?:大于|小于|超过|不足|多于|少于|至少|至多|高于|低于).*\d|\d\D{0,4}(?:以上|以下|以内|之间)$",
    _I,
)
ORDER = re.compile(
    r"^[①-⑨\s,，、和]+$|^[A-Ha-h1-9](?:\s*(?:,|，|、|->|→|—|>|<)\s*[A-Ha-h1-9]){1,8}$"
    r"|^[IVⅠ-Ⅸ]+(?:\s*(?:,|and|、|和)\s*[IVⅠ-Ⅸ]+)+$"
)
SHOWN = re.compile(
    rf"^(?:{PICTURE}|<\s*image\s*\d*\s*>|(?:the )?(?:image|picture|photo|figure|fig\.?|图片|图像|图|照片)\s*"
    r"[\dA-Ha-h①-⑨一二三四]?)$",
    _I,
)
LABEL = re.compile(
    r"^(?:[A-Za-z]['′]?\d?|[甲乙丙丁戊]|[①-⑨]|[ⅠⅡⅢⅣⅤⅥ]|(?:point|line|angle|arrow|region|area|box|panel|curve|graph|"
    r"diagram|circle|label|position|row|column|option|choice|object|shape|triangle|点|线|角|曲线|区域|位置|图形|图|方框|物体)\s*"
    r"[A-Za-z0-9①-⑨甲乙丙丁]{1,2}['′]?)$",
    _I,
)
POINTS = _any(
    r"\bwhich (?:picture|image|photo|figure|diagram|graph|chart|panel|shape|drawing|pattern|tile|piece)\b",
    r"\bcomes? next\b",
    r"哪[一]?(?:幅|张|个|副)?(?:图|图片|图形|照片)",
)
INSTRUCTION = _any(
    r"hint\s*[:：][^\n]*\b(?:option letter|letter)[^\n]*\n?",
    r"^\s*(?:question|问题|题目)\s*[:：]\s*",
    r"(?:please\s+)?(?:answer|respond|reply)\b[^.?!\n]*\b(?:letter|option|choice)s?\b[^.?!\n]*[.!:]?",
    r"(?:please\s+)?(?:select|choose|pick|give)\b[^.?!\n]*\b(?:answer|option|choice|letter|one)s?\b[^.?!\n]*[.!:]?",
    r"[【(（\[](?:单选题?|单项选择题?|选择题?)[】)）\]]",
    r"请(?:直接)?(?:回答|选择|选出|给出|从)[^。？！\n]*(?:选项|字母|答案|一项)[^。？！\n]*[。：:！]?",
    r"从[^。？！\n]{0,12}选项中[^。？！\n]*[。：:]?",
)
BLANK = re.compile(r"[(（](?:\s|\$|\\q?quad|\\square)*[)）]")
"""An empty pair of brackets, with LaTeX's spaces in it or without"""
ALONE = re.compile(rf"\$\s*{BLANK.pattern}\s*\$")
IN_FORMULA = re.compile(rf"{BLANK.pattern}\s*\$")
"""One at the end of a formula, which it closes"""
GAP = re.compile(r"_{2,}|(?<=\S) {5,}(?=\S)")
"""A place to be filled in"""
ANSWER = re.compile(
    r"^(?:the\s+)?(?:correct\s+)?(?:answer|option|choice|答案|正确答案|选项)?\s*(?:is|为|是)?\s*[:：]?\s*选?\s*"
    r"[(（\[]?(?P<letter>[A-Ha-h])"
    r"(?:[)）\]]|[.．、:：]|(?=\s|$))\s*(?P<rest>.*)$",
    _I | re.DOTALL,
)
SEVERAL = re.compile(r"^[(（\[]?[A-H](?:\s*(?:,|，|、|;|&|and|和|\+|)\s*[A-H])+[)）\]]?\.?$")
