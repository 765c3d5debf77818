"""Two checkpoints side by side, blind: the same questions, sides hidden and swapped, judged by people or by a model."""
