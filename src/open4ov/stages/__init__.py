"""Stages that are put together from parts which do not know one another: each module has `run`."""
