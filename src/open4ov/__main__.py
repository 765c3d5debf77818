"""`python -m open4ov`, which is how torchrun starts it (`torchrun -m open4ov sft ...`)."""

from open4ov.cli import main

if __name__ == "__main__":
    main()
