"""Many sandboxed calls from one warm interpreter: which of these answers, written by nobody you know, is right?

python examples/answers.py
"""

import ramet

ANSWERS = {
    "sorts": "def answer(numbers):\n    return sorted(numbers)",
    "forgets one": "def answer(numbers):\n    return sorted(numbers)[1:]",
    "hangs": "def answer(numbers):\n    while True: pass",
    "eats memory": "def answer(numbers):\n    return [bytearray(8 << 30) for _ in numbers]",
    "looks around": "def answer(numbers):\n    return open('/etc/shadow').read()",
    "kills": "import os\ndef answer(numbers):\n    os.kill(1, 9); os.kill(-1, 9)",
}


def main() -> None:
    with ramet.Pool(size=2, timeout=5, rlimits={"AS": (2 << 30, 2 << 30)}) as pool:
        for name, code in ANSWERS.items():
            found = pool.exec(f"{code}\nanswer(numbers)", {"numbers": [3, 1, 2]})
            verdict = "right" if found.value == [1, 2, 3] else found.error if found.error is not None else found.text
            print(f"{name:14} {type(verdict).__name__ if isinstance(verdict, Exception) else verdict}")


if __name__ == "__main__":
    main()
