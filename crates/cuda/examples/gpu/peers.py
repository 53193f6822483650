"""What PyTorch with Transformers reaches on the same GPU: shapes as JSON in the first argument, which GPU in the second; a JSON object a line."""

import json
import statistics
import sys
import time

import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM


def tell(**found):
    print(json.dumps(found), flush=True)


def timed(work, runs):
    work()
    work()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - begun))
    return {"median_ms": statistics.median(times), "runs": runs}


def limits():
    side = 8192
    a = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(side, side, device="cuda", dtype=torch.bfloat16)
    product = timed(lambda: a @ b, 15)
    tell(row=f"product {side}", flops_per_s=2e3 * side**3 / product["median_ms"], **product)
    size = 1 << 30
    source = torch.zeros(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = timed(lambda: target.copy_(source), 15)
    tell(row="copy 1 GiB", bytes_per_s=2e3 * size / copy["median_ms"], **copy)


def model(shape):
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    with torch.device("cuda"):
        return LlamaForCausalLM(config).eval()


def decode(llama, shape, batch, context):
    cache = DynamicCache()
    prompt = torch.randint(shape["vocab"], (batch, context), device="cuda")
    llama(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = torch.zeros(batch, 1, dtype=torch.long, device="cuda")

    def step():
        token.copy_(llama(token, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1, keepdim=True))

    tell(model=shape["name"], row=f"decode {batch} at {context}", **timed(step, 20))


def prefill(llama, shape, tokens):
    prompt = torch.randint(shape["vocab"], (1, tokens), device="cuda")

    def step():
        llama(prompt, use_cache=True, logits_to_keep=1)

    tell(model=shape["name"], row=f"prefill {tokens}", **timed(step, 7))


torch.cuda.set_device(int(sys.argv[2]))
torch.set_default_dtype(torch.bfloat16)
tell(torch=torch.__version__, transformers=transformers.__version__)
with torch.inference_mode():
    limits()
    for shape in json.loads(sys.argv[1]):
        llama = model(shape)
        for batch in (1, 8, 64):
            decode(llama, shape, batch, 128)
        for tokens in (512, 2048):
            prefill(llama, shape, tokens)
        del llama
        torch.cuda.empty_cache()
