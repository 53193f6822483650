"""English prose that every Python carries: the language reference. As a program it prints it."""

import pydoc_data.topics
import sys


def real_text():
    topics = pydoc_data.topics.topics
    return "\n".join(topics[name] for name in sorted(topics))


if __name__ == "__main__":
    sys.stdout.buffer.write(real_text().encode())
