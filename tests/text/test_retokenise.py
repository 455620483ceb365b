from opd_diag.text.retokenise import retokenise


def test_round_trip_holds_for_byte_level_text(tiny_tokenizer) -> None:
    again = retokenise(tiny_tokenizer, ["Then 3 + 4 = 7.", "", "中文 👩‍🔬"])
    assert again.round_trip == [True, True, True]
    assert again.broken == [False, False, False]
    assert again.token_ids[1] == []
    assert retokenise(tiny_tokenizer, []).token_ids == []


def test_bytes_that_the_dump_has_lost_are_noticed(tiny_tokenizer) -> None:
    text = tiny_tokenizer.decode([tiny_tokenizer.convert_tokens_to_ids("ä")])  # half a character
    again = retokenise(tiny_tokenizer, [f"So {text}"])
    assert (again.round_trip, again.broken) == ([True], [True])


def test_a_tokenizer_that_loses_text_is_found_out(tiny_tokenizer) -> None:
    import copy

    from tokenizers import normalizers

    lossy = copy.deepcopy(tiny_tokenizer)
    lossy.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert retokenise(lossy, ["Then", "then"]).round_trip == [False, True]
