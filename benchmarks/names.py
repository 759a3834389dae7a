"""What the workers of a fleet are called. Imported by clients: it must import nothing."""


def names(count: int) -> list[str]:
    return [f"w{number}@fleet" for number in range(count)]
