"""From documents to image-question-answer samples (paper §4.1.1): PDF files, and what MinerU made of some."""
