"""Texts to train and to try tokenizers on: ten scripts, source code, and random strings, the same on every machine."""

import random

TEXTS = [
    "The quick brown fox jumps over the lazy dog. It's 3.14 o'clock, isn't it? They've said: \"We'll see, I'd say!\"",
    "Le renard brun saute par-dessus le chien paresseux. Ça va, l'été naïf à l'œuvre? Größe, Straße, ÄÖÜ.",
    "敏捷的棕色狐狸跳过了懒狗。今天天气很好，我们去公园散步吧！一二三四五，上山打老虎。",
    "素早い茶色の狐はのろまな犬を飛び越える。東京タワーは高いです。カタカナとひらがな。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘습니다. 안녕하세요 세계! 오늘은 날씨가 좋네요.",
    "Быстрая коричневая лиса перепрыгивает через ленивую собаку. Привет, мир! Ёжик и щука.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول. مرحبا بالعالم! كيف حالك اليوم؟",
    "השועל החום המהיר קופץ מעל הכלב העצלן. שלום עולם! מה שלומך היום?",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। नमस्ते दुनिया! आप कैसे हैं?",
    "สุนัขจิ้งจอกสีน้ำตาลกระโดดข้ามสุนัขขี้เกียจ สวัสดีชาวโลก วันนี้อากาศดี",
    "Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί. Γειά σου Κόσμε!",
    "def fib(n):\n    if n < 2:\n        return n  # the base\n    return fib(n - 1) + fib(n - 2)\n\n\tprint(fib(10))\n",
    "#include <vector>\ntemplate <class T>\nT sum(const std::vector<T>& v) {\n  T s{};\n  for (auto x : v) s += x;\n  return s;\n}\n",
    "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich\", \"days\": [1, 2, 3], \"ok\": true, \"x\": null}}",
    "2024-01-31 12:59:07,123 INFO 192.168.0.1 - - GET /index.html?q=1&r=%20 HTTP/1.1 200 5316 0.004s\n",
    "🙂👍🏽 👩‍👩‍👧 e\u0301 n\u0303 ﬁ Ⅷ ½ ² ① ．，！ 　wide　spaces\u00a0and\u200bzero\ufeff",
]

WORDS = [
    "hello", "World", "the", "I'm", "DON'T", "été", "naïve", "你好", "世界", "こんにちは", "안녕", "Привет", "مرحبا",
    "שלום", "नमस्ते", "สวัสดี", "123", "3.14", "1000000", "\n", "\n\n", "  ", "   ", "\t", "\r\n", "\r", "<|im_start|>",
    "<|im_end|>", "<s>", "</s>", "<unk>", "[MARK]", "word", "<strip>", "def f(x):", "return", "🙂", "👩‍👩‍👧", "\u200b",
    "\u00a0", "\u3000", "\u180e", "\u0085", "\u2028", "_", "__init__", "'s", "'S", "ſ", "'ſ", "½", "Ⅷ", "²", "①",
    "e\u0301", "\ufeff", "\x00", "\x04", "\x1c", "\U0010ffff", "ﬁ", "İ", "ß", "Ω", "K", "Å", "ǆ", "．", "，", "！", "▁",
    "▁▁", "<0x41>", "a\u030a", "\u0e33", "\u0915\u093c", "\u1100\u1161", "ÀÉ", "x" * 30, "ab" * 20, "-", "--", "'", "\"",
    "{", "}}", "</w>", "##", "!?", "..."]


def random_text(rnd):
    kind = rnd.random()
    count = rnd.randint(0, 12)
    if kind < 0.5:
        return "".join(rnd.choice(WORDS) + rnd.choice(["", "", " ", "  "]) for _ in range(count))
    if kind < 0.65:
        text = rnd.choice(TEXTS)
        start = rnd.randrange(len(text))
        return text[start:start + rnd.randint(0, 40)]
    if kind < 0.8:
        ranges = [(32, 126), (0, 0x17F), (0x300, 0x6FF), (0x2000, 0x2FFF), (0x3000, 0x30FF), (0xAC00, 0xAFFF)]
        return "".join(chr(rnd.randint(*rnd.choice(ranges))) for _ in range(count * 2))
    if kind < 0.9:
        return "".join(chr(rnd.choice([rnd.randint(0, 0xD7FF), rnd.randint(0xE000, 0x10FFFF)])) for _ in range(count))
    return "".join(rnd.choice("ab c\n1'") for _ in range(count * 3))


def random_bytes(rnd):
    """A text as bytes, now and then with some that are no UTF-8."""
    raw = random_text(rnd).replace("\x00", "").encode()
    if rnd.random() < 0.3:
        at = rnd.randint(0, len(raw))
        bad = bytes(rnd.choice([0x80, 0xFF, 0xE4, 0xF0, 0xC3, 0xED, 0xA0, 0xC0]) for _ in range(rnd.randint(1, 3)))
        raw = raw[:at] + bad + raw[at + rnd.randint(0, 1):]
    return raw
