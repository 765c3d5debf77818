"""How an answer is spelt: one spelling for what reads alike, and what of its dress means nothing.

`normalise` is for comparing words: no case, no LaTeX, no outer punctuation. `tidy` keeps what mathematics needs (case,
brackets, powers) and gives each sign one form. `simplified` writes traditional Chinese characters as simplified ones.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

CJK = "\u3400-\u9fff\uf900-\ufaff"
_OUTER = " ,;:!?\"'`*()[]{}。、，；：！？「」“”《》"
_LATEX_WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"(?P<whole>(?<=\d)\s*)?\\[dt]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|([0-9])\s*([0-9]))")
_POWERS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ"
_FROM_POWERS = str.maketrans(_POWERS, "0123456789+-n")
_VULGAR = "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_TRADITIONAL = (
    "紅綠藍黃雲車輛燈門開關閉個兩萬億點對錯沒這邊從東師長條張塊顆頭雙層間馬魚鳥鴨鵝貓豬雞龍龜蝦蟲獅熱氣電線機場學書畫筆紙圖國"
    "園圓環銀銅鐵錶鐘錢價貴買賣輪轉動運進過還遠違連達後來時間問題數據總計課題試驗變壓減輕緊慢溫濕淨濁傷亂"
    "開關號碼記語說話詞讀寫聽見觀視覽顯現場檢測標準確認證實際應該樣類種樹葉華藥麥豐滿漢漁島嶼橋樓廠廣廚廳"
    "貝負責則剛劃別創勞務勝勵區協單衛廢導將尋專對屬嚴歲強彈歸當錄徑復態慶憲戰擇擊據擺斷於暫會權極檔歡歷殺"
    "決況涼滅潔濟灣無煙爾牆獨獎獲玩產畢異發盡盤碼禮稱積穩窮競筆節範築糧約級純紐細終結給絕統經綜維綱網緒練縣縮繪繼續"
    "罰羅義習聯職腦腳膚臉臨舉舊艦處虛號補裝製複規視覺觸計訂訓設許訴診評識譯議護讓貨質費資賓賽贊贏趕趨躍踐軌軟載較輔輸辦"
    "農遲遞選遙適遼郵鄉醫釋銷鎖鍵鏡閃閒闊陰陽隊階際隨險雖雜離難靜韓頁頂項順須預領頻題額顏願飛飯飲養館駕騎驗驚髒體鬆鬥鬧鮮麗齊齒燒"
)
_SIMPLIFIED = (
    "红绿蓝黄云车辆灯门开关闭个两万亿点对错没这边从东师长条张块颗头双层间马鱼鸟鸭鹅猫猪鸡龙龟虾虫狮热气电线机场学书画笔纸图国"
    "园圆环银铜铁表钟钱价贵买卖轮转动运进过还远违连达后来时间问题数据总计课题试验变压减轻紧慢温湿净浊伤乱"
    "开关号码记语说话词读写听见观视览显现场检测标准确认证实际应该样类种树叶华药麦丰满汉渔岛屿桥楼厂广厨厅"
    "贝负责则刚划别创劳务胜励区协单卫废导将寻专对属严岁强弹归当录径复态庆宪战择击据摆断于暂会权极档欢历杀"
    "决况凉灭洁济湾无烟尔墙独奖获玩产毕异发尽盘码礼称积稳穷竞笔节范筑粮约级纯纽细终结给绝统经综维纲网绪练县缩绘继续"
    "罚罗义习联职脑脚肤脸临举旧舰处虚号补装制复规视觉触计订训设许诉诊评识译议护让货质费资宾赛赞赢赶趋跃践轨软载较辅输办"
    "农迟递选遥适辽邮乡医释销锁键镜闪闲阔阴阳队阶际随险虽杂离难静韩页顶项顺须预领频题额颜愿飞饭饮养馆驾骑验惊脏体松斗闹鲜丽齐齿烧"
)
assert len(_TRADITIONAL) == len(_SIMPLIFIED)
_TO_SIMPLIFIED = str.maketrans(_TRADITIONAL, _SIMPLIFIED)
"""Characters with one simplified form and no other reading; 乾, 著 and their like are left as they are."""

_SIGNS = (
    (r"\\(?:left|right|displaystyle|bigl?|bigr?|Bigl?|Bigr?|limits)(?![a-zA-Z])", ""),
    (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
    (r"\{,\}|\\[,!](?=\d{3}(?!\d))", ","),
    (r"\\(?:[,;:! ]|quad|qquad)|\\$|(?<=\S)~(?=\S)", " "),
    (r"\\(?:neq?|not\s*=)(?![a-zA-Z])|!=", "≠"),
    (r"\\(?:leq?|leqslant)(?![a-zA-Z])|<=|=<", "≤"),
    (r"\\(?:geq?|geqslant)(?![a-zA-Z])|>=", "≥"),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    (r"\\infty(?![a-zA-Z])", "∞"),
    (r"\\cup(?![a-zA-Z])", "∪"),
    (r"\\cap(?![a-zA-Z])", "∩"),
    (r"\\(?:emptyset|varnothing)(?![a-zA-Z])|\\\{\s*\\\}", "∅"),
    (r"\\pi(?![a-zA-Z])", "π"),
    (r"\\theta(?![a-zA-Z])", "θ"),
    (r"\\pm(?![a-zA-Z])", "±"),
    (r"\\times(?![a-zA-Z])", "×"),
    (r"\\cdot(?![a-zA-Z])|⋅|∙", "·"),
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree(?![a-zA-Z])|º", "°"),
    (r"\\\{|\\lbrace(?![a-zA-Z])", "⦃"),
    (r"\\\}|\\rbrace(?![a-zA-Z])", "⦄"),
    (r"\\([%$&#_])", r"\1"),
    (r"\s+", " "),
)
_SIGN_PATTERNS = [(re.compile(pattern), replacement) for pattern, replacement in _SIGNS]
_DELIMITERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))


def normalise(text: str) -> str:
    """One spelling of an answer: no LaTeX dress, width, case, outer punctuation, leading article or extra spaces."""
    text = _compatible(text)
    for pattern, replacement in ((_LATEX_WRAPPER, r"\1"), (_FRACTION, _written_out)):
        while (shorter := pattern.sub(replacement, text)) != text:
            text = shorter
    if "\\" in text:
        text = re.sub(r"\\(?:left|right|displaystyle|!|,|;|:|quad|qquad)(?![a-zA-Z])", " ", text)
        text = re.sub(r"\\([%$&#_{}])", r"\1", text)
    text = re.sub(r"\s+", " ", text.replace("$", " ").casefold()).strip()
    text = text.lstrip(_OUTER).rstrip(_OUTER + ".")
    text = re.sub(r"^(?:a|an|the) (?=\S)", "", text)
    return re.sub(rf"(?<=[{CJK}]) | (?=[{CJK}])", "", text)


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    """An answer as mathematics reads it: one form of each sign, spaces single, no delimiters around the whole.

    Case, brackets and minus signs stay; escaped braces become ⦃ and ⦄, which tells a set from a LaTeX group.
    """
    text = _compatible(text).strip()
    if re.search(r"\\(?:text|mathrm|mathbf|textbf|textit|mathit|mbox|operatorname)", text):
        while (shorter := _LATEX_WRAPPER.sub(lambda found: f" {found[1]} ", text)) != text:
            text = shorter
    text = _bare(text)
    for pattern, replacement in _SIGN_PATTERNS:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".。,，;；").strip()


def simplified(text: str) -> str:
    """Traditional characters that have exactly one simplified form, written so."""
    return text.translate(_TO_SIMPLIFIED)


def words(text: str) -> list[str]:
    """Latin words and numbers of a normalised text, and each Chinese character on its own."""
    return re.findall(rf"[{CJK}]|[^\W_{CJK}]+", normalise(text))


def _compatible(text: str) -> str:
    """NFKC, but that a power stays one ("10³" is not 103) and 2½ is not 21/2."""
    if not text.isascii():
        text = re.sub(f"[{_POWERS}]+", lambda found: f"^{_grouped(found[0].translate(_FROM_POWERS))}", text)
        text = re.sub(rf"(?<=\d)(?=[{_VULGAR}])", " ", text)
        text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-").replace("’", "'")
        text = re.sub(r"^\s*[–—] ?(?=[\d.])", "-", text)
    return text


def _grouped(power: str) -> str:
    return power if len(power) == 1 else f"{{{power}}}"


def _written_out(found: re.Match[str]) -> str:
    """A LaTeX fraction on one line, its parts in brackets where they are more than a number or a name; a whole number
    before it stands apart."""
    top, bottom = (found[2], found[3]) if found[2] is not None else (found[4], found[5])
    parts = [
        one if re.fullmatch(r"\s*-?(?:[\w.]+|\([^()]*\))\s*", one) or not one.strip() else f"({one})"
        for one in (top, bottom)
    ]
    return f"{' ' if found['whole'] is not None else ''}{parts[0]}/{parts[1]}"


def _bare(text: str) -> str:
    """Without what marks mathematics or emphasis around the whole."""
    for opening, closing in _DELIMITERS:
        inner = text[len(opening) : -len(closing)]
        if len(text) > len(opening) + len(closing) and text.startswith(opening) and text.endswith(closing):
            if opening not in inner or opening == "`":
                return inner.strip()
            break
    return text
