"""Declares torchvision's C++ operators before its first import; vllm_venv.sh and trl_venv.sh put it into theirs."""

import importlib.abc
import sys

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class Declare(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            self.library = torch.library.Library("torchvision", "DEF")
            for operator in OPERATORS:
                self.library.define(operator)
            KEEP.append(self.library)  # a library that is collected takes its operators with it
        return None


KEEP = []
sys.meta_path.insert(0, Declare())
