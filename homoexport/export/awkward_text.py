"""Strings of our own, in kinds, on which tokenizers are known to disagree; the same ones each time."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from homoexport.sample_text import SAMPLE_TEXT

PLAIN_ENGLISH = "plain English"
_PER_KIND = 50  # strings that are made of characters by chance, in each kind
_PHRASES: dict[str, Sequence[str]] = {
    "accents, composed": (
        "Café crème, s'il vous plaît — déjà vu à Noël",
        "Ångström, Žižek, Łódź, Đorđe, Þórr, smørrebrød",
        "ÀÉÎÕÜ àéîõü ÇÑŠŽ çñšž ŐŰ őű Œuvre ŒUVRE Æther",
        "Việt Nam: một, hai, ba — Đường Nguyễn Huệ",
        "naïve coöperation, façade, résumé, jalapeño, fiancée",
    ),
    "Greek case": (
        "ΟΔΥΣΣΕΥΣ Οδυσσεύς ὈΔΥΣΣΕΎΣ ΣΑΣ σας ΣΊΣΥΦΟΣ",
        "ΤΟ ΠΑΝΕΠΙΣΤΗΜΙΟ ΤΗΣ ΑΘΗΝΑΣ, το Πανεπιστήμιο της Αθήνας",
        "ᾼ ᾳ ῼ ῳ ῌ ῃ Ϊ ϊ ΐ ΰ ᾷ ῇ ᾯ ϐ ϑ ϕ ϖ ϰ ϱ ϴ",
        "μῆνιν ἄειδε θεὰ Πηληϊάδεω Ἀχιλῆος· ΜΗΝΙΝ ΑΕΙΔΕ ΘΕΑ;",
        "Σ ς σ ΑΣ. ΑΣ, ΑΣΑ Σ' ΑΣ\u0301 ΑΣ\u00ad",
    ),
    "Turkish case": (
        "İstanbul ISTANBUL ıstanbul istanbul İSTANBUL",
        "DİYARBAKIR Diyarbakır diyarbakır IĞDIR Iğdır ığdır",
        "I\u0307stanbul i\u0307stanbul İİIıiı \u0130\u0307",
        "KIŞ GÜNEŞİ kış güneşi Şırnak ŞIRNAK çığ ÇIĞ ÖĞLE",
    ),
    "other cases": (
        "STRASSE Straße STRAẞE ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ ŉ ǰ ẖ ẗ ẘ ẙ ẚ",
        "ǅ ǈ ǋ ǲ Ǆ Ǉ Ǌ Ǳ dž lj nj dz K Å Ω ſ",
        "Съешь ЕЩЁ этих МЯГКИХ французских булок, ЙОД Їжак",
        "Ἂ ᲀ ᲁ Ა ა Ꭰ ꭰ Ꮿ ꮿ 𐐀 𐐨 Ⴀ ⴀ Ⰰ ⰰ Ｆｕｌｌ ＷＩＤＴＨ",
    ),
    "Korean": (
        "안녕하세요, 세계! 대한민국 서울특별시 강남구",
        "한국어 형태소 분석은 어렵다. 값없이 닭을 읽다 뷁 힣",
        unicodedata.normalize("NFD", "한국어 대한민국 값 닭"),
        "ᄀ가각 ㄱㄴㄷ ㅏㅑ ㅄ ﾡﾢ ﾡￂ \u3164 \u1160 \u115f 가\u302e 가\u302f",
    ),
    "Chinese and Japanese": (
        "我们在北京学习中文，天气很好。",
        "東京タワーへ行きました。ｶﾀｶﾅ ﾊﾝｶｸ ガギグ が か\u3099 は\u309a",
        "中a文b字c 1中2文3 中,文。字！",
        "豈 更 車 \U0002f800 𠀀 𪚥 𪜀 𫝀 𫠠 \U0002ceb0 \U00030000 㐀 䶵 龥 鿿 〆 々 〇 ㊀ ㋿ ㍿",
        "臺灣正體字與简体字『引號』《書名》【括號】",
    ),
    "Indic marks": (
        "नमस्ते दुनिया, हिन्दी में लिखना क्षत्रिय ज़मीन क\u093cख\u093c क़ख़ग़",
        "বাংলা ভাষা আমার প্রিয়, কো কৌ \u09cb \u09cc য\u09bc",
        "தமிழ் மொழி கொ கோ கௌ ஸ்ரீ",
        "తెలుగు ಕನ್ನಡ മലയാളം ਪੰਜਾਬੀ ગુજરાતી ଓଡ଼ିଆ සිංහල",
        "मैं १२३ रुपये ₹ दूँगा। ॐ श्री॥ र्\u200dक र्\u200cक",
    ),
    "Thai and its neighbours": (
        "สวัสดีชาวโลก ภาษาไทยไม่มีวรรค น้ำ กำ ก\u0e4d\u0e32 ๑๒๓ ฿",
        "ພາສາລາວ ນ້ຳ ကမ္ဘာ မြန်မာ ភាសាខ្មែរ བོད་ཡིག",
        "ที่นี่มีปลาอยู่ ๆ ฯลฯ เเก แก",
    ),
    "Arabic and Hebrew marks": (
        "مرحبا بالعالم، كيف حالك؟ السَّلَامُ عَلَيْكُمْ آ أ إ ؤ ئ ا\u0653",
        "שָׁלוֹם עוֹלָם שלום בְּרֵאשִׁית בָּרָא אֱלֹהִים ־ ׳ ״ יִ שׁ",
        "ﷺ ﷲ ﻻ ﺍﺏﺕ ــــ ١٢٣ ۱۲۳ پچژگ ٪ ؛",
        "\u202bעברית\u202c and \u2067العربية\u2069 \u200eLTR\u200f",
    ),
    "emoji": (
        "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 👨🏿‍🚀 ❤️‍🔥 🧑🏻‍❤️‍💋‍🧑🏿",
        "I ❤ NY ❤️ ☺︎ ☺️ 1️⃣ #️⃣ *️⃣ ©️ ®️ ™️ 🅰️ 🈶 🉐",
        "great😀great 😀😃😄 🏴󠁧󠁢󠁥󠁮󠁧󠁿 ✌🏼 🤷‍♀️ 🤷🏾‍♂️ 🥲 🫠 🪿 🩷",
        "ok👌. nice✨! (🎉) \u200d \ufe0f \u20e3 \U000e0067",
    ),
    "control characters": (
        "a\x01b\x02c\x1fd \x7f e\x80f\x9fg\x85h",
        "tab\tnew\nline\r\nvertical\x0bform\x0cescape\x1b[31mred\x1b[0m bell\x07",
        "soft\u00adhyphen word\u2060joiner \ufeffBOM \ufff9note\ufffa\ufffb \u061c \u180e",
        "bidi\u202aa\u202cb\u202ec \u2066d\u2069 \u206a\u206f \ufffc \ufffd",
    ),
    "NUL": ("a\0b", "\0start", "end\0", "one\0two\0three", "\0", "word \0 word", "a\0\0b and more"),
    "spaces": (
        "a\u00a0b\u1680c\u2000d\u2003e\u2009f\u200ag\u202fh\u205fi\u3000j",
        "a\u200bb\u200cc\u200dd\ufeffe\u2028f\u2029g\u180eh\u2800i\u3164j",
        "   leading and trailing   ",
        "many     spaces\t\t\tand tabs \n\n\n lines",
    ),
    "punctuation": (
        "\"Hello,\" she said—'quietly'… «Really?» ‹yes› „so“ ‚it‘ ’twas",
        "a.b,c;d:e!f?g(h)i[j]k{l}m<n>o/p\\q|r@s#t$u%v^w&x*y-z_=+~`'\"",
        "50% off, $3.50 or €4,00 £5 ¥6 ₩7 ₿8 ¢9 ± × ÷ ≠ ≤ ∞ ∑ √ → ⇒ ✓ ★ § ¶ † ‡ • ‰ ° ª º ¹ ² ³ ½ ¼",
        "https://example.org/a_b-c?d=e&f=%20g#h mail+tag@example.co.uk C:\\temp\\x.txt $HOME/.rc `ls -l`",
        "؟ ، ؛ । ॥ 。 、 ・ ！ ？ ； ： ＂ ＇ （ ） ‐ ‑ ‒ – — ― ⸺ ⁂ ¿ ¡ ; · ` ´ ¨ ¯ ¸ ＿ ￣ 〜 ～",
        "don't can't we're I'll it's O'Brien rock'n'roll e.g. i.e. U.S.A. Ph.D. 3.14 1,000,000 -5 10:30",
        "##ing a##b ### [unused1] [ SEP ] [sep] <s> </S> <UNK> [[SEP]]",
    ),
    "compatibility forms": (
        "①②③ Ⅷ ⅷ ㈱ ㎏ ㏒ ℀ ℡ ℃ Å ﹏ ﹪ ＃ ％ Ａｂｃ１２３ 𝐀𝒷𝕮 𝟙𝟚 🄰 🅐",
        "x² H₂O aⁿ ª º ﬁne oﬃce ﬓ ﭏ ﷼ ︰ ︵ ︶ ｡ ｢ ｣",
    ),
    "private use and noncharacters": (
        "a\ue000b\uf8ffc \U000f0000d\U0010fffde",
        "a\ufdd0b\ufdd1c\ufdefd \ufffee\ufffff \U0001fffeg\U0010ffffh",
        "\ue000", "\uffff", "\ufdd0", "x\ufdd0[SEP]", " \ufdd0 \ufffe ",
        "unassigned \u0378 \u0379 \u038b \U000e0fff \U0003ffff",
    ),
    "reordered marks": (
        "\u1b05\u302e\u1b44 a\u302e\u1b44b", "\uac00\u302f\u1baa", "x\u302e\u1bf2\u1b44y", "\u1703\u302e\u1715",
        "a\u0301\u0323 a\u0323\u0301 q\u0307\u0323 q\u0323\u0307 ậ ậ", "d\u0323\u0307 ḍ\u0307 ḋ\u0323 क\u094d\u093c",
    ),
    "blank": (
        "", " ", "\t", "\n", "   \t\n ", "\u00a0", "\u3000", "\u200b", "\ufeff", "\u0301", "\u00ad", "\x01", "\ue000",
    ),
}  # fmt: skip
_RANGES: dict[str, Sequence[tuple[int, int]]] = {
    "accents, composed": ((0xC0, 0x250), (0x1E00, 0x1F00), (0x61, 0x7B), (0x41, 0x5B)),
    "Greek case": ((0x370, 0x400), (0x1F00, 0x2000)),
    "Turkish case": ((0x49, 0x4A), (0x69, 0x6A), (0x130, 0x132), (0x11E, 0x120), (0x15E, 0x160), (0x307, 0x308)),
    "other cases": (
        (0x400, 0x590), (0x10A0, 0x1100), (0x13A0, 0x1400), (0x1C80, 0x1CC0), (0x2C00, 0x2D30), (0xA640, 0xA7D0),
        (0xAB70, 0xABC0), (0x10400, 0x10450), (0x1E900, 0x1E944),
    ),
    "Korean": ((0xAC00, 0xD7A4), (0x1100, 0x1200), (0x3130, 0x3190), (0xA960, 0xA980), (0xD7B0, 0xD7FC)),
    "Chinese and Japanese": (
        (0x4E00, 0xA000), (0x3400, 0x4DC0), (0x3000, 0x3100), (0xF900, 0xFB00), (0x20000, 0x2CEB0), (0x2F800, 0x2FA20),
    ),
    "Indic marks": ((0x900, 0xA00), (0xA00, 0xC00), (0xC00, 0xE00), (0xA8E0, 0xA900)),
    "Thai and its neighbours": ((0xE00, 0xF00), (0xF00, 0x10A0), (0x1780, 0x1800), (0x1A20, 0x1AB0)),
    "Arabic and Hebrew marks": ((0x590, 0x800), (0x8A0, 0x900), (0xFB1D, 0xFDD0), (0xFE70, 0xFF00)),
    "emoji": ((0x1F300, 0x1F650), (0x1F900, 0x1FA00), (0x1F1E6, 0x1F200), (0x200D, 0x200E), (0xFE0F, 0xFE10)),
    "control characters": ((1, 0x20), (0x7F, 0xA0), (0x61, 0x7B), (0x200B, 0x2010), (0x202A, 0x202F), (0xFFF9, 0xFFFC)),
    "spaces": ((0x20, 0x21), (0xA0, 0xA1), (0x2000, 0x2010), (0x2028, 0x2030), (0x205F, 0x2065), (0x61, 0x7B), (9, 14)),
    "punctuation": (
        (0x21, 0x30), (0x3A, 0x41), (0x5B, 0x61), (0x7B, 0xBF), (0x2010, 0x2070), (0x61, 0x7B), (0x2E00, 0x2E5E),
    ),
    "compatibility forms": (
        (0x2070, 0x20A0), (0x2100, 0x2190), (0x2460, 0x2500), (0x3200, 0x3400), (0xFE30, 0xFFF0), (0x1D400, 0x1D800),
    ),
    "private use and noncharacters": (
        (0xE000, 0xF900), (0xF0000, 0xF0100), (0x61, 0x7B), (0xFDD0, 0xFDF0), (0x10FF00, 0x110000),
    ),
    "any characters": ((1, 0xD800), (0xE000, 0x11000), (0x11000, 0x20000), (0x20000, 0x110000)),
}  # fmt: skip
_LONG_WORDS = [
    ("a", 99), ("a", 100), ("a", 101), ("É", 100), ("É", 101), ("e\u0301", 100), ("İ", 101), ("한", 33), ("한", 34),
    ("x", 1_000), ("ab", 50), ("😀", 100), ("😀", 101), ("中", 150), ("\u200b", 200),
]  # fmt: skip
_LINE = 10_000  # characters of a long line
_REPEATED = ("a b ", "é,", "中文", "x", " ", "नमस्ते ", "👩‍👩‍👧‍👦 ", "[SEP]", "\u0301", "\x01 ", "안녕 ")


def awkward_texts(tokens: Iterable[str]) -> dict[str, list[str]]:
    """More than 1,000 strings by their kind.

    Args:
        tokens: the tokenizer's added tokens, which may stand in a text, too.
    """
    chance = random.Random(20261123)
    kinds = {PLAIN_ENGLISH: list(_english())}
    for kind in {**_PHRASES, **_RANGES}:
        kinds[kind] = [*_PHRASES.get(kind, ()), *_by_chance(chance, _RANGES.get(kind, ()))]
    kinds["accents, decomposed"] = [
        unicodedata.normalize("NFD", text) for kind in ("accents, composed", "Greek case") for text in kinds[kind]
    ]
    kinds["long words"] = [
        start + part * count + end
        for part, count in _LONG_WORDS
        for start, end in [("", ""), ("so ", " it is"), ("-", "!"), ("a\u0301", "")]
    ]
    kinds["long lines"] = [(text * (_LINE // len(text) + 1))[:_LINE] for text in [" ".join(SAMPLE_TEXT), *_REPEATED]]
    kinds["special tokens"] = list(_around(tokens))
    apart = ("NUL", "reordered marks", "long lines", "blank")  # short ones, and those that some tokenizers differ on
    mixed = [text for kind, texts in kinds.items() if kind not in apart for text in texts]
    kinds["mixed"] = [" ".join(chance.sample(mixed, 3)) for _ in range(2 * _PER_KIND)]
    return kinds


def _english() -> Iterator[str]:
    yield from SAMPLE_TEXT
    for text in SAMPLE_TEXT:
        yield text.upper()
        yield text.title()
        yield text.rstrip(".").replace(" ", "-")


def _by_chance(chance: random.Random, ranges: Sequence[tuple[int, int]]) -> Iterator[str]:
    for _ in range(_PER_KIND if ranges else 0):
        characters = [chr(chance.randrange(*chance.choice(ranges))) for _ in range(chance.randint(1, 30))]
        yield "".join(character + " " * (chance.random() < 0.2) for character in characters)


def _around(tokens: Iterable[str]) -> Iterator[str]:
    for token in tokens:
        yield from (token, f"a{token}b", f"a {token} b", f"{token}{token}", f" {token}.", token.lower(), token.upper())
        yield from (token[:-1], f"{token[0]}{token}", f"é{token}É", f"中{token}", f"{token}##s")
        yield f"{token[0]} {token[1:]}"
