"""Hybrid reinforcement learning (paper §4): online GSPO with verifiable rewards, then offline DPO."""
