"""How the Python scripts print what they got."""

import datetime
import sys

BY_REGION = "SELECT id, age, income, score FROM customers WHERE region = {} AND id <= {} ORDER BY id"
EVERYBODY = "SELECT id, age, income, score FROM customers ORDER BY id"
SLEEPY = "SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1"


def section(name):
    print("==", name, flush=True)


def cell(value):
    if value is None:
        return "NULL"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(value)


def rows(found):
    for row in found:
        print("|".join(cell(v) for v in row))


def code(error):
    """The SQLSTATE of an error, whatever the driver calls it."""
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or error.args[0]


def failing(error_class, run):
    """Prints the SQLSTATE with which run() must fail."""
    try:
        run()
        print("no error")
    except error_class as e:
        print(code(e))


sys.stdout.reconfigure(encoding="utf-8")
