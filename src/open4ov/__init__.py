"""open4ov: post-training that makes a multimodal LLM an expert of a domain without losing its general ability."""
