"""Rollouts by address: servers that generate with weights which a trainer writes, and who asks them.

A trainer has `servers.Servers`, over any number of vLLM's servers and our own. Our own server is `app.create_app`
(`open4ov rollout`); it speaks what is used of vLLM's protocol.
"""
