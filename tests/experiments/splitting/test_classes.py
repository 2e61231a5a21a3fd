"""What a scenario's classes of requests say is part of it: their lengths by content, whatever they are called."""

from experiments.splitting.parts import fingerprint, parts_of
from papi_env.scenario import parse_scenario

SERVING = {
    "arrivals": {"process": "poisson", "rate_per_s": 2.0},
    "lengths": {"table": "dolly-general-qa"},
    "objectives": {"ttft_s": 2.0, "tpot_s": 0.05},
    "horizon_s": 60.0,
}


def scenario(**entry):
    serving = SERVING | {"service": {"classes": {"people": entry}}}
    return parse_scenario({"name": "t", "system": "papi", "model": "llama-65b", "serving": serving}, "t")


def talking(lengths):
    return {"conversation": {"turns": 2.0, "think_s": 9.0, "lengths": lengths}}


def test_lengths_of_classes_tell_scenarios_apart():
    given = [
        scenario(),
        scenario(lengths={"table": "lmsys-chat-turn"}),
        scenario(lengths={"table": "wildchat-turn"}),
        scenario(**talking({"table": "wildchat-turn"})),
        scenario(**talking({"input": 10, "output": 20})),
        scenario(weight=2.0),
    ]
    prints = [fingerprint(one, {}) for one in given]
    assert len(set(prints)) == len(given)
    assert fingerprint(scenario(lengths={"table": "lmsys-chat-turn"}), {}) == prints[1]


def test_it_matters_whose_lengths_they_are():
    own = {"lengths": {"table": "lmsys-chat-turn"}}
    prints = set()
    for classes in ({"a": own, "b": {}}, {"a": {}, "b": own}):
        serving = SERVING | {"service": {"classes": classes}}
        given = {"name": "t", "system": "papi", "model": "llama-65b", "serving": serving}
        prints.add(fingerprint(parse_scenario(given, "t"), {}))
    assert len(prints) == 2


def test_a_file_of_a_class_counts_by_its_content(tmp_path):
    prints = []
    for name, content in (("a.csv", "same"), ("b.csv", "same"), ("c.csv", "other")):
        path = str(tmp_path / name)
        (tmp_path / name).write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n1,100,10\n")
        given = scenario(**talking({"trace": path}))
        prints.append([part.sha256 for part in parts_of(given, {path: content}) if part.kind == "serving"])
    assert prints[0] == prints[1] != prints[2]
