#!/usr/bin/env python3
"""Writes the tokenizer and chat-template fixtures that crates/model's tests compare Wharf with.

Needs: pip install "transformers>=5" tokenizers sentencepiece protobuf jinja2 gguf
Run:   python scripts/make_tokenizer_fixtures.py [--smollm2 SmolLM2-135M-Instruct.gguf]

Small tokenizers are trained here on a mixed text, one for each pre-tokenizer of the supported families; what
Hugging Face's libraries make of a corpus is the expectation. With --smollm2, the expected ids of the real
SmolLM2 tokenizer, rebuilt from the GGUF's tables, are written too.
"""

import argparse
import datetime
import io
import json
from pathlib import Path

import sentencepiece
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

OUT = Path(__file__).resolve().parent.parent / "crates/model/tests/fixtures"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"
O200K = r"{0}{1}*{2}+{3}|{0}{1}+{2}*{3}|{4}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT4O = O200K.format(LEAD, UPPER, LOWER, CONTRACTIONS + "?", r"\p{N}{1,3}")
TEKKEN = O200K.format(LEAD, UPPER, LOWER, "", r"\p{N}")
DEEPSEEK3 = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]

TRAINING = [
    "The quick brown fox jumps over the lazy dog. It's what they'd say, isn't it? I'm sure we've seen that you're right; she'll go.",
    "Large language models turn text into tokens, and tokens back into text, again and again and again.",
    "def add(a: int, b: int) -> int:\n    return a + b\n\nfor i in range(10):\n    print(add(i, i + 1))\n",
    "fn main() {\n    let xs: Vec<u32> = (0..100).collect();\n    println!(\"{:?}\", xs);\n}\n",
    "Der schnelle braune Fuchs springt über den faulen Hund. Straße, Größe, Äpfel.",
    "El rápido zorro marrón salta sobre el perro perezoso. ¿Qué tal, señor? ¡Mañana!",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "快速的棕色狐狸跳过了懒狗。人工智能正在改变世界。",
    "いろはにほへと ちりぬるを。カタカナとひらがな。",
    "빠른 갈색 여우가 게으른 개를 뛰어넘습니다.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول.",
    "तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है।",
    "0123456789 3.14159 2024-01-31 1,000,000 12345 67890",
    "😀 😃 😄 👍 ❤️ 👩‍👩‍👧‍👦 🏳️‍🌈",
    "HTTPServer XMLHttpRequest getElementById camelCase SCREAMING_CASE snake_case",
] * 4

CORPUS = [
    "",
    " ",
    "  ",
    "\n",
    "a",
    "Hello",
    " Hello",
    "Hello, world!",
    "Hello,  world!   ",
    "  leading and trailing  ",
    "one\ntwo\r\nthree\r\rfour\n\n\nfive \n six\t\tseven",
    "tabs\tand\u00a0no-break\u2003em\u3000ideographic\u200bzero\u2028line\u0085next",
    "It's they'll WE'VE I'M don't 's 'S 'tis 'ſ l'ſt ’s ''s 'RE",
    "0 1 12 123 1234 12345 123456 1234567.89 ½ Ⅷ ٣٤٥ ² 1a2b3c a1 v1.2.3",
    "def f(x):\n    if x > 0:\n        return x ** 2\n    else:\n\t\treturn -x  # neg\n",
    "fn main() { println!(\"{}\", 1_000u64 >> 3 & !0x7f); } // done\n\n\n}",
    "<div class=\"a\">&amp; http://example.com/a/b?c=d&e=f#g</div>\n",
    "HTTPServer XMLHttpRequest iPhone McDonald ABCdefGHI Ǆabc ǅabc ǆabc",
    "!!! ??? ... --- *** ///\n/// $$$ \\\\ `code` ~tilde~ @user #tag ^_^ {}[]()",
    "Straße ÄÖÜ naïve café cafe\u0301 Å A\u030a ﬁ ﬂ ①②③ ｆｕｌｌｗｉｄｔｈ",
    "a\u0301b\u0300c\u0327 \u0301lone x\u0303\u0323\u0302 Z\u0351\u036b\u0343A\u0322L\u0334G\u0335O",
    "Съешь ещё этих мягких французских булок. МОСКВА",
    "快速的棕色狐狸。2024年1月31日，价格：￥100。",
    "日本語のテキスト、カタカナ、ｶﾀｶﾅ。漢字かな交じり文",
    "빠른 갈색 여우 각 각",
    "الثعلب البني السريع ١٢٣ مَرْحَبًا",
    "नमस्ते दुनिया १२३ क्षत्रिय",
    "ภาษาไทยไม่มีช่องว่าง",
    "😀😃 👍🏽 ❤️ 👩‍👩‍👧‍👦 🏳️‍🌈 🇫🇷🇩🇪 x😀y",
    "\U0001f9ff\U000e0067 \U00020000\U0002a6d6 \ufeff\ufffd \u0001\u007f",
    "mixed English и русский 和中文 وعربي together",
    "▁under ▁▁ literal ▁",
    "<0x41> <0x0A> literal bytes",
    "<|bos|>text<|eos|>",
    "  <|eos|>  spaced  <|eos|>  ",
    "a<|im|>b <|im|> c\n<|im|>\n",
    "<|bos|><|bos|><|eos|",
    "before<user_defined>after <user_defined> word",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ababababababababababababab the the the thethethe",
    "                                        x",
    "\n\n\n\n\n\n\n\nx\n\n  \n  y",
    "Once upon a time, in a land far away, there lived a curious little robot who wanted to learn every language.",
]

BOS, EOS, IM, USER = "<|bos|>", "<|eos|>", "<|im|>", "<user_defined>"


def byte_level(name, steps, vocab=700, normalizer=None, ignore_merges=False, bos=False, pre=None, prefix_space=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, IM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    # Trained special tokens have no flags of their own in some versions: say them again.
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (BOS, EOS, IM)])
    tokenizer.add_tokens([AddedToken(USER, special=False, normalized=False)])
    if bos:
        tokenizer.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]),
        ])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    gguf = None
    if pre:
        gguf = {"model": "gpt2", "pre": pre, "add_bos_token": bos}
    write(name, tokenizer, gguf)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)


def plain_bytes():
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def sentence_piece_model(user_defined):
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=user_defined,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())


def spm_merges(pieces, scores, skip):
    """As Transformers converts a SentencePiece model: every split of a piece into two pieces, best score first."""
    vocab = {piece: id for id, piece in enumerate(pieces)}
    merges = []
    for id, piece in enumerate(pieces):
        if id in skip:
            continue
        local = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in vocab and piece[i:] in vocab]
        local.sort(key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        merges.extend((left, right, scores[id]) for left, right in local)
    merges.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    return [(left, right) for left, right, _ in merges]


def sentence_piece(name, style):
    # Gemma's own runs of line breaks are user-defined pieces.
    user = ["\n", "\n\n", "\n\n\n"] if style == "gemma" else []
    spm = sentence_piece_model(user)
    count = spm.get_piece_size()
    pieces = [spm.id_to_piece(i) for i in range(count)]
    scores = [spm.get_score(i) for i in range(count)]
    special = {i for i in range(count) if spm.is_control(i) or spm.is_unknown(i)}
    types = [
        2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 4 if pieces[i] in user else 1
        for i in range(count)
    ]
    model = models.BPE(
        vocab={piece: i for i, piece in enumerate(pieces)},
        merges=spm_merges(pieces, scores, special),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    replace = normalizers.Replace(" ", "▁")
    tail = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(content=" ", left=1, right=0)]
    gguf = {"model": "llama", "add_space_prefix": True, "add_bos_token": True}
    if style == "metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
        gguf = None
    elif style == "gemma":
        tokenizer.normalizer = replace
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
        strip = []
        gguf["add_space_prefix"] = False
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replace])
    tokenizer.decoder = decoders.Sequence(tail + strip)
    specials = [pieces[i] for i in sorted(special)]
    rstrip = style == "phi3"
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=rstrip and t == "</s>") for t in specials])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False, rstrip=rstrip) for t in (BOS, EOS, IM)])
    if user:
        tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in user])
    if not rstrip:
        # GGUF marks every user-defined token of Phi-3 as swallowing white space, which Hugging Face does not.
        tokenizer.add_tokens([AddedToken(USER, special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    if gguf:
        extra = tokenizer.get_vocab_size() - count
        kinds = {BOS: 3, EOS: 3, IM: 3, USER: 4}
        types += [kinds[tokenizer.id_to_token(count + i)] for i in range(extra)]
        gguf |= {"scores": scores + [-10000.0] * extra, "token_type": types}
        if style == "phi3":
            gguf["architecture"] = "phi3"
    write(name, tokenizer, gguf, bos="<s>", eos="</s>")


def expectations(tokenizer):
    cases = []
    for text in CORPUS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        case = {"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)}
        skipped = tokenizer.decode(ids, skip_special_tokens=True)
        if skipped != case["decoded"]:
            case["skipped"] = skipped
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.encode_special_tokens = False
        if plain != ids:
            case["plain"] = plain
        cases.append(case)
    return {"framed": tokenizer.encode("Hello", add_special_tokens=True).ids, "cases": cases}


def dump(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def write(name, tokenizer, gguf, bos=BOS, eos=EOS):
    folder = OUT / "tokenizers" / name
    folder.mkdir(parents=True, exist_ok=True)
    dump(folder / "tokenizer.json", json.loads(tokenizer.to_str()))
    dump(folder / "tokenizer_config.json", {"bos_token": bos, "eos_token": {"content": eos, "special": True}})
    dump(folder / "expected.json", expectations(tokenizer))
    if gguf:
        gguf |= {"bos_token_id": tokenizer.token_to_id(bos), "eos_token_id": tokenizer.token_to_id(eos)}
        dump(folder / "gguf.json", gguf)


def tokenizers():
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level("gpt2", [gpt2], pre="gpt-2")
    byte_level("smollm", [digits, gpt2], pre="smollm")
    byte_level("llama3", [split(LLAMA3), plain_bytes()], ignore_merges=True, bos=True, pre="llama-bpe")
    byte_level("qwen2", [split(QWEN2), plain_bytes()], normalizer=normalizers.NFC(), pre="qwen2")
    byte_level("qwen35", [split(QWEN35), plain_bytes()], normalizer=normalizers.NFC(), pre="qwen35")
    byte_level("gpt4o", [split(GPT4O), plain_bytes()], pre="gpt-4o")
    byte_level("tekken", [split(TEKKEN), plain_bytes()], ignore_merges=True, bos=True, pre="tekken")
    byte_level("deepseek3", [split(p) for p in DEEPSEEK3] + [plain_bytes()], pre="deepseek-v3")
    # Parts that no listed family combines like this, so that each is compared once.
    byte_level("prefix-space", [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)])
    byte_level(
        "splitters",
        [
            pre_tokenizers.Split("e", behavior="merged_with_next"),
            pre_tokenizers.Split(Regex(r"[aou]+"), behavior="merged_with_previous"),
            pre_tokenizers.Split(Regex(r"[lt]"), behavior="contiguous"),
            pre_tokenizers.Split(Regex(r"\s"), behavior="removed"),
            pre_tokenizers.Digits(individual_digits=False),
            pre_tokenizers.Punctuation(behavior="isolated"),
            plain_bytes(),
        ],
        normalizer=normalizers.Sequence([
            normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex("[x-z]"), "#"), normalizers.Strip(),
        ]),
    )
    byte_level("words", [pre_tokenizers.Whitespace(), plain_bytes()], normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]))
    byte_level("spaces", [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.CharDelimiterSplit("-"), plain_bytes()], normalizer=normalizers.NFKD())
    for name in ("llama", "metaspace", "gemma", "phi3"):
        sentence_piece(name, name)
    metaspace_decoder()


def metaspace_decoder():
    """Characters without byte fallback, an unknown token, and the Metaspace pair of old files."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<unk>", BOS, EOS, IM], limit_alphabet=150, show_progress=False)
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens([AddedToken(BOS, special=True, normalized=False, lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("word", special=False, normalized=True, single_word=True)])
    tokenizer.add_tokens([AddedToken(USER, special=False, normalized=True)])
    write("unknown", tokenizer, None)


def smollm2(path):
    import gguf as gguf_package

    reader = gguf_package.GGUFReader(path)
    field = lambda key: reader.fields[key].contents()
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == 3]
    tokenizer.add_special_tokens(special)
    texts = CORPUS + ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "\n".join(TRAINING)]
    expected = expectations(tokenizer)
    expected["cases"] = [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts]
    template = field("tokenizer.chat_template")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>")
    wrapped.chat_template = template
    expected["prompt"] = wrapped.apply_chat_template(MESSAGES["turns"], tokenize=False, add_generation_prompt=True)
    dump(OUT / "smollm2.json", expected)


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather für eine Stadt: \"temp\" <b>&'quoted' 天气",
        "parameters": {
            "type": "object",
            "required": ["city"],
            "properties": {
                "city": {"type": "string", "description": "Stadt\nor\ttown \\ \u2028 \u0007"},
                "days": {"type": "integer", "minimum": 1, "default": None, "ratio": [0.5, 1e-7, 1e20, -3, True, {}, []]},
            },
        },
    },
}
CALL = {"id": "call01234", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}
MESSAGES = {
    "one": [{"role": "user", "content": "What is the capital of France?"}],
    "system": [{"role": "system", "content": "  Be brief. "}, {"role": "user", "content": " Hi \n"}],
    "turns": [
        {"role": "system", "content": "You are 🤖."},
        {"role": "user", "content": "1 < 2 & \"3\" > '2'?"},
        {"role": "assistant", "content": "Yes.\n\nIndeed."},
        {"role": "user", "content": "谢谢"},
    ],
    "tools": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Zürich?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call01234", "name": "get_weather", "content": "{\"temp\": 21.5}"},
        {"role": "assistant", "content": "21.5 °C.", "reasoning_content": "easy"},
        {"role": "user", "content": "Thanks"},
    ],
    "wrong": [{"role": "assistant", "content": "I speak first"}, {"role": "assistant", "content": "and again"}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "nice"}]}],
}
NOW = datetime.datetime(2025, 3, 9, 7, 5, 2)


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def chat():
    chat_template_utils.datetime = FixedClock
    vocab = Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocab, bos_token="<s>", eos_token="</s>")
    cases = []
    for template in sorted((OUT / "chat").glob("*.jinja")):
        source = template.read_text(encoding="utf-8")
        for name, messages in MESSAGES.items():
            for tools in (None, [TOOL]):
                for generation in (False, True):
                    case = {
                        "template": template.name,
                        "messages": messages,
                        "tools": tools,
                        "add_generation_prompt": generation,
                    }
                    extra = {"enable_thinking": False, "names": ["b", "a"]} if name == "turns" else {}
                    try:
                        case["expected"] = tokenizer.apply_chat_template(
                            messages,
                            tools=tools,
                            chat_template=source,
                            add_generation_prompt=generation,
                            tokenize=False,
                            **extra,
                        )
                    except Exception as error:
                        case["error"] = str(error)
                    if extra:
                        case["extra"] = extra
                    cases.append(case)
    seconds = int((NOW - datetime.datetime(1970, 1, 1)).total_seconds())
    dump(OUT / "chat/expected.json", {"now": seconds, "bos_token": "<s>", "eos_token": "</s>", "cases": cases})
    errors = sum("error" in case for case in cases)
    print(f"{len(cases)} conversations, {errors} of them refused by their template")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", type=Path, help="the GGUF file of SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    tokenizers()
    chat()
    if arguments.smollm2:
        smollm2(arguments.smollm2)


if __name__ == "__main__":
    main()
