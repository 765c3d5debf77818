"""General corpora with scene annotations: pictures drawn here, with every question's answer derived from the scene.

`generate` gives single questions by task; `dense` gives conversations for pretraining; `questions` asks about a scene.
"""

from open4ov.corpora.generate import dense, generate, questions
from open4ov.corpora.item import QA, TASKS, Item, Scene

__all__ = ["QA", "TASKS", "Item", "Scene", "dense", "generate", "questions"]
