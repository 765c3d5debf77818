"""How a style is asked for in words, and how facts are called and told, in English and Chinese."""

from __future__ import annotations

FORMS = ("list", "table", "heading", "keys")
"""The structures of Markdown that can be asked for by name."""

REQUESTS: dict[str, dict[str, tuple[str, ...]]] = {
    "list": {
        "en": (
            "Answer as a Markdown list.",
            "Give the answers as bullet points.",
            "Please reply with a bulleted list.",
            "Use bullet points.",
            "I want a list in Markdown.",
            "Put it into a bulleted list, please.",
        ),
        "zh": (
            "请用 Markdown 列表回答。",
            "请用项目符号列出答案。",
            "用列表的形式回答。",
            "请分条列出。",
            "我想要一个 Markdown 列表。",
            "请把它写成列表。",
        ),
    },
    "table": {
        "en": (
            "Answer as a Markdown table.",
            "Put the answers into a table.",
            "Show it as a table.",
            "Please make a table of it.",
            "I want a table in Markdown.",
            "A table with the answers, please.",
        ),
        "zh": (
            "请用 Markdown 表格回答。",
            "请把答案放进表格里。",
            "用表格的形式回答。",
            "请列一个表格。",
            "我想要一个 Markdown 表格。",
            "请把它写成表格。",
        ),
    },
    "heading": {
        "en": (
            "Answer in Markdown with a heading.",
            "Use a heading and bullet points below it.",
            "Write it up with a Markdown heading.",
            "Put a heading above the answers.",
            "I want a heading and a list in Markdown.",
            "Start with a heading, please.",
        ),
        "zh": (
            "请用带标题的 Markdown 回答。",
            "请写一个标题，下面分条列出。",
            "用 Markdown 标题加列表回答。",
            "请在答案上面加标题。",
            "我想要标题和列表的形式。",
            "请先写标题。",
        ),
    },
    "keys": {
        "en": (
            "Write each answer as a bold key and its value.",
            "Use bold keys: **key**: value.",
            "Answer with bold key-value lines.",
            "Give key and value, the key in bold.",
            "I want bold keys in Markdown.",
            "Bold keys with their values, please.",
        ),
        "zh": (
            "请用加粗的键和值回答。",
            "请写成**键**：值的形式。",
            "用加粗关键词的形式回答。",
            "请给出键和值，键要加粗。",
            "我想要加粗的 Markdown 键值。",
            "请把每项写成加粗的键加值。",
        ),
    },
    "human": {
        "en": (
            "Answer as if you were talking to me.",
            "Tell me like a friend would.",
            "Explain it in a warm, natural way.",
            "Speak to me naturally, in full sentences.",
            "Please say it in a friendly, spoken way.",
            "Talk to me as a person would.",
        ),
        "zh": (
            "请像聊天一样回答我。",
            "像朋友一样告诉我。",
            "请用自然亲切的语气说明。",
            "请用完整的口语句子回答。",
            "请友好地用口语说。",
            "请像真人一样跟我说。",
        ),
    },
    "concise": {
        "en": (
            "Answer as briefly as you can.",
            "Keep it short.",
            "Only the essentials, please.",
            "In a few words, please.",
            "Be concise.",
            "The short answer only.",
        ),
        "zh": (
            "请尽量简短地回答。",
            "请简短一点。",
            "只说要点。",
            "请用几个字回答。",
            "请简洁。",
            "只要简短的答案。",
        ),
    },
}
"""Style -> language -> wordings. The last wording of each is never trained on: `bench/preference.py` asks with it."""

KEYS: dict[str, dict[str, str]] = {
    "name": {"en": "Name", "zh": "名称"},
    "meaning": {"en": "Meaning", "zh": "含义"},
    "severity": {"en": "Urgency", "zh": "紧急程度"},
    "class": {"en": "Kind", "zh": "类别"},
    "action": {"en": "What to do", "zh": "怎么做"},
    "naming": {"en": "Object", "zh": "物体"},
    "colour": {"en": "Colour", "zh": "颜色"},
    "counting": {"en": "Number", "zh": "数量"},
    "reading": {"en": "Text", "zh": "文字"},
    "position": {"en": "Position", "zh": "位置"},
    "charts": {"en": "Chart", "zh": "图表"},
    "reasoning": {"en": "Result", "zh": "结果"},
    "arithmetic": {"en": "Result", "zh": "结果"},
    "": {"en": "Answer", "zh": "回答"},
}
"""What a fact is called, by its kind; "" for kinds that have no name here."""

COLUMNS = {"en": ("Item", "Answer"), "zh": ("项目", "内容")}
TITLE = {"en": "Answer", "zh": "回答"}
COLON = {"en": ": ", "zh": "："}
JOIN = {"en": "; ", "zh": "；"}

SPOKEN: dict[str, dict[str, tuple[str, ...]]] = {
    "name": {"en": ("This is called {}.", "What you see is {}."), "zh": ("这叫{}。", "您看到的是{}。")},
    "meaning": {"en": ("It tells you this. {}", "Let me explain. {}"), "zh": ("它是在告诉您，{}", "我来说明一下，{}")},
    "severity": {"en": ("As for how urgent it is: {}.", "I would say: {}."), "zh": ("紧急程度是{}。", "我会说，{}。")},
    "class": {"en": ("It is one of the {} signs.", "Its kind is {}."), "zh": ("它属于{}类标志。", "它的类别是{}。")},
    "action": {
        "en": ("Here is what you should do. {}", "My advice to you: {}"),
        "zh": ("我建议您这样做，{}", "您可以这样做，{}"),
    },
    "naming": {"en": ("What you see is {}.", "I see {} here."), "zh": ("您看到的是{}。", "我看到的是{}。")},
    "colour": {"en": ("The colour is {}.", "It looks {} to me."), "zh": ("颜色是{}。", "我看到它是{}的。")},
    "counting": {"en": ("I count {}.", "There you have {}."), "zh": ("我数了一下，是{}。", "数量是{}。")},
    "reading": {"en": ("It reads {}.", "You can read {} there."), "zh": ("上面写的是{}。", "您可以看到{}。")},
    "": {"en": ("The answer is {}.", "I would say {}."), "zh": ("答案是{}。", "我觉得是{}。")},
}
"""How a fact is told to someone; a value that is a sentence keeps its own full stop."""

OPENERS = {
    "en": ("Sure, I can tell you!", "Of course!", "Happy to help you!", "Good that you ask!"),
    "zh": ("好的，我来告诉您！", "没问题！", "很高兴能帮您！", "您问得好！"),
}
CLOSERS = {
    "en": ("I hope that helps you!", "Just ask me if you need more.", "Let me know if anything is unclear."),
    "zh": ("希望能帮到您！", "有问题随时问我。", "还有什么需要请告诉我。"),
}
