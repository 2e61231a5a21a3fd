"""Valid contents of the files that are read, small ones of every form: what is changed starts from them."""

from __future__ import annotations

import gzip
import io
import json
from functools import cache
from itertools import product
from typing import Any

import polars as pl

from papi_env.scenario import SCENARIOS

SCENARIO_TOML = (
    """name = "half-the-fpus"
model = "llama-65b"
[system]
base = "papi"
fc_pim = { fpus_per_bank = 2, stack = { banks_per_die = 96 } }
[workload]
batch_size = 32
speculation = 4
speculation_schedule = [[200, 1]]
acceptance_rate = 0.8
lengths = { table = "dolly-general-qa" }
""",
    """name = "two-classes-of-mine"
system = "papi"
model = "llama-65b"
[serving]
arrivals = { process = "poisson", rate_per_s = 8.0 }
lengths = { table = "azure-conversation" }
objectives = { ttft_s = 2.0, tpot_s = 0.05 }
horizon_s = 60.0
[serving.service]
charge = 0.25
[serving.service.classes.people]
weight = 2.0
patience_s = [8.0, 30.0]
conversation = { turns = 3.0, think_s = 15.0 }
[serving.service.classes.batch]
objectives = { ttft_s = 30.0, tpot_s = 0.2 }
""",
    """model = { base = "qwen3-30b-a3b", weight_format = "int4", kv_format = "fp8" }
[system]
base = "papi"
pu = { base = "h200", count = 8 }
fabric = { base = "nvlink4", per_node = 8, between = "infiniband-ndr" }
fc_pim = { stacks = 48 }
[workload]
batch_size = 4
lengths = { input = 100, output = 10 }
""",
    """system = "papi-edge"
[images]
network = "repmlpnet-t224"
batch_sizes = [1, 4]
encodes = 8
""",
)
_HUB: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
HUB = (
    _HUB,
    _HUB
    | {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
    },
    _HUB
    | {
        "model_type": "deepseek_v3",
        "architectures": ["DeepseekV3ForCausalLM"],
        "num_key_value_heads": 32,
        "first_k_dense_replace": 3,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
    },
)
TRACE_TABLES = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,100,10\n"
    "2023-11-16 18:17:04.2299600,2000,1\n2023-11-16 18:17:05.9799600,7,300\n",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,100,10\n"
    "2024-05-10 00:00:02.009930+00:00,7,300\n",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5.0,ChatGPT,100,10,110,Conversation log\n"
    "5.1,GPT-4,400,0,400,API log\n7,ChatGPT,7,300,307,Conversation log\n",
    "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n0.25,2000,1\n2.0,7,300\n",
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    "0,2,0,0,1,100,10\n1,2,0,0.25,1,2000,1\n2,2,0,2.0000000000000004,1,7,300\n",
    "input_toks\toutput_toks\tarrival_time_ns\n100\t10\t0\n2000\t1\t250000000\n7\t300\t2000000000\n",
    "policy,seed,request,arrival_s,input_tokens,output_tokens,class\nthreshold,0,0,0.0,100,10,writing\n"
    "threshold,0,1,0.25,2000,1,writing\noracle,0,0,0.0,100,10,writing\n",
    'TIMESTAMP,ContextTokens,GeneratedTokens\n"2023-11-16 18:17:03","100","10"\n',
)
REQUESTS = ("category,lin,lout\nqa,100,10\nwriting,2000,1\nqa,7,300\n", *TRACE_TABLES[:1])
_ROWS = [
    {"timestamp": 0, "input_length": 100, "output_length": 10, "hash_ids": [0]},
    {"timestamp": 250, "input_length": 2000, "output_length": 1, "hash_ids": [0, 1, 2, 3]},
    {"timestamp": 2000, "input_length": 7, "output_length": 300, "hash_ids": []},
]
TRACE_LINES = (
    _ROWS,
    [{"input_toks": 100, "output_toks": 10, "arrival_time_ns": n, "input_tok_ids": [1, 2]} for n in (1, 250)],
)
TRACE_DOCUMENTS = (
    _ROWS,
    {
        "completed": 3,
        "input_lens": [100, 7, 50, 2000],
        "output_lens": [10, 300, 0, 1],
        "ttfts": [0.1, 0.1, 0.0, 0.1],
        "start_times": [500.5, 502.5, 501.0, 500.75],
    },
    [
        {
            "id": "a",
            "conversations": [{"from": "human", "value": "x" * 40}, {"from": "gpt", "value": "y" * 40}],
        }
    ],
)
MEASURED = "# gpu: NVIDIA A100-SXM4-80GB\noutputs,inputs,rows,seconds\n" + "".join(
    f"{out},8192,{rows},{4.6e-05 * (1 + rows / 64)}\n" for out in (4096, 1024) for rows in (1, 4, 16)
)
CYCLES = "L,nhead,dhead,dbyte,pim_type,power_constraint,cycle\n128,64,128,2,BA,True,4000\n2048,96,128,2,BG,False,9000\n"
KERNELS = (
    "gpu,n,tp,heads,kv_heads,hidden,feed_forward,qkv_us,projection_us,up_us,down_us\n"
    "a100,1,1,32,8,4096,14336,20,15,80,45\na100,8,2,32,8,4096,14336,21,16,81,46\n"
)
# Of one all-reduce and its element-wise kernels: sizes, and as many as are interpolated between.
ALLREDUCE = "gpu,gpus,bytes,min_us,median_us\na100,4,1,20,30\na100,4,1000000000,20,30\nh100,8,1000000,30,32\n"
ELEMENT_WISE = (
    "gpu,tp,n,heads,kv_heads,hidden,feed_forward,activation_us,norm1_us,norm2_us,rope_us,add_us\n"
    + "".join(
        f"a100,{tp},{n},{hidden // 128},8,{hidden},28672,10,4,4,6,1\n"
        for tp, hidden, n in product((1, 4), (4096, 8192), (1, 4096))
    )
)
EXPERTS = "tokens,activated_experts,time_us\n1,8,40\n64,100,300\n"
EVALUATIONS = (
    "steps,simulated_s,wall_s,score,regret,return: a setting\n"
    "0,0.0,0.0,-9.0,0.09,-9.0\n100,50.0,10.0,-5.0,0.05,-5\n"
)
REPMLPNET = (
    'name = "three-stages"\nchannels = [48, 96, 192]\nshare_sets = [2, 8, 48]\nblocks = [2, 4, 2]\nimage_size = 128\n',
    'base = "repmlpnet-t224"\nimage_size = 448\n',
)
SWEEP = """name = "tiny"
env = "papi_env/Decode-v0"
scenarios = ["creative-writing/llama-65b"]
seeds = 2
search = "grid"
[[schedulers]]
name = "PAPI's threshold"
policies = ["threshold"]
[[objectives]]
measure = "tokens_per_s"
goal = "max"
[[axes]]
paths = "system.fc_pim.fpus_per_bank"
values = [1, 2, 4]
[[axes]]
paths = ["system.pu.count", "system.fc_pim.stacks"]
values = [[3, 15], [6, 30]]
[limits]
rated_power_w = 15000
"""
RUN: dict[str, Any] = {
    "model": "llama-3.1-8b",
    "gpu": "rtx-4090",
    "gpus": 2,
    "max_running": 8,
    "token_budget": 256,
    "page_tokens": 16,
    "kv_tokens": 4096,
    "prefix_caching": True,
    "link": {"bandwidth": 3e10, "latency_s": 2e-6},
}
RUN_REQUESTS = (
    "input_tokens,output_tokens,arrival_s,queued_s,scheduled_s,first_token_s,last_token_s\n"
    "100,5,9.9,10.0,10.0,10.1,10.5\n100,5,10.9,11.0,11.0,11.1,11.5\n"
)
META: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "engine_kwargs": {"tensor_parallel_size": 2, "max_num_seqs": 8, "max_num_batched_tokens": 256},
    "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
}
CLUSTER: dict[str, Any] = {
    "link_bw": 30,
    "link_latency": 2000,
    "nodes": [{"instances": [{"hardware": "RTX4090", "npu_mem": {"mem_size": 24, "mem_util": 0.9}}]}],
}
META_REQUESTS = [
    {
        "request_id": str(i),
        "input_toks": 100,
        "output_toks": 5,
        "arrival_time": 1.79e9 + i,
        "queued_ts": 500.0 + i,
        "scheduled_ts": 500.0 + i,
        "first_token_ts": 500.1 + i,
        "last_token_ts": 500.5 + i,
    }
    for i in range(2)
]


def server_tables() -> dict[str, str]:
    """Measured tables of a server, small ones: by the file's name."""
    layers = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    dense = [f"{name},{n},200.0" for name in layers for n in (1, 4, 16)]
    heads = [f"{name},{n},500.0" for name in ("lm_head", "sampler") for n in (1, 4)]
    points = [(0, 0, n, q) for n in (1, 4) for q in (16, 64)]
    for c, k in product((16, 64), (0, 16, 64)):
        points += [(c, k, 0, 0), *((c, k, n, q) for n in (1, 4) for q in (16, 64))]
    attention = [f"{c},{k},{n},{q},50.0" for c, k, n, q in points]
    return {
        "dense.csv": "\n".join(["layer,tokens,time_us", *dense]) + "\n",
        "per_sequence.csv": "\n".join(["layer,sequences,time_us", *heads]) + "\n",
        "attention.csv": "\n".join(["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", *attention])
        + "\n",
    }


@cache
def scenario_documents() -> tuple[dict[str, Any], ...]:
    """Whole definitions of registered scenarios of each kind, as a run folder or a policy records them."""
    names = ("creative-writing/llama-65b", "saturated/llama-65b", "vision-stream", "two-classes/llama-65b")
    return tuple(SCENARIOS[name].model_dump(mode="json") for name in names)


def grid() -> str:
    """AttAcc's output for a machine with PIM and one without, in its columns."""
    common = {
        "model": "GPT-175B",
        "dtype": "W16A16",
        "xpu": "GPU",
        "sys_opb": 93.07875894988067,
        "cores": 8,
        "Lin": 128,
    }
    common |= {
        "Lout": 128,
        "bs": 4,
        "s_time": 42.5,
        "g_time (ms)": 27.5,
        "g_energy (nJ)": 1e10,
        "fits_cap": True,
    }
    common |= {"ffopt": False, "pipeopt": True, "g_matmul": 0.4, "g_attn_mem_energy": 2e7}
    rows = (
        common | {"system": "dgx", "hw": "NONE", "bw": 1.0, "cap": 640, "power constraint": False},
        common | {"system": "dgx-attacc", "hw": "BA", "bw": 9.0, "cap": 1280, "power constraint": True},
    )
    return "".join(",".join(map(str, line)) + "\n" for line in (rows[0], *(row.values() for row in rows)))


def as_json(document: Any) -> bytes:
    """Plain data as JSON text."""
    return json.dumps(document).encode()


def as_lines(rows: Any) -> bytes:
    """Plain data as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet() -> bytes:
    """A trace as Parquet."""
    out = io.BytesIO()
    pl.DataFrame(_ROWS).write_parquet(out)
    return out.getvalue()


def gzipped() -> tuple[bytes, ...]:
    """Traces packed by gzip."""
    return tuple(gzip.compress(text, 1) for text in (TRACE_TABLES[0].encode(), as_lines(_ROWS)))
