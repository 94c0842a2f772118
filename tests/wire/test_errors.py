"""Error codes are part of the protocol."""

from wire.errors import Code, RemoteProtocolError


def test_codes_are_words_that_never_meet_twice():
    assert len(set(Code)) == len(Code.__members__)
    assert all(code == code.lower() and " " not in code for code in Code)
    assert all(
        member.lower().replace("_", "-") == code for member, code in Code.__members__.items()
    )


def test_an_error_knows_what_to_answer():
    error = RemoteProtocolError(Code.NAME_TAKEN, "actor gpu1/0 is taken", fatal=True)

    assert (error.code, error.message, error.fatal) == ("name-taken", "actor gpu1/0 is taken", True)
    assert str(error) == "actor gpu1/0 is taken"


def test_an_error_is_not_fatal_unless_it_says_so():
    assert not RemoteProtocolError(Code.BAD_FRAME, "x").fatal
