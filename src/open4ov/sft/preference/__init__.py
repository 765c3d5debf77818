"""The kinds of samples of the SFT-Preference set (paper §3.2.3, stage 3), one file a subject."""
