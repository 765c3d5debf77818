"""Who generates rollouts: our engine, a copy of the policy or vLLM; at once, or one step ahead of the update."""
