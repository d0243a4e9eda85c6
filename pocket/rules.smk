# The pocket weights, rebuilt from nothing and compared with the shipped ones:
#   snakemake pocket_weights          (about two hours on two cores; nothing else needs it)

REBUILT = "results/pocket_weights"
REWARDS = ("hpsv2", "pickscore", "hpsv3")


# Its stages are kept in its folder: an interrupted build goes on where it stopped.
rule pocket_base:
    output:
        touch(f"{REBUILT}/base.done"),
    log:
        f"{REBUILT}/logs/base.log",
    conda:
        "../environment.yml"
    threads: 1
    params:
        out=subpath(output[0], strip_suffix=".done"),
    message:
        "rebuild the pocket base model"
    shell:
        "python -m pocket.base --out {params.out} > {log} 2>&1"


rule pocket_samples:
    input:
        rules.pocket_base.output,
    output:
        f"{REBUILT}/samples/images.npz",
        f"{REBUILT}/samples/images.jsonl",
    log:
        f"{REBUILT}/logs/samples.log",
    conda:
        "../environment.yml"
    threads: 1
    params:
        base=subpath(input[0], strip_suffix=".done"),
        out=subpath(output[0], parent=True),
    message:
        "sample the rebuilt base model for the rewards' preferences"
    shell:
        "python -m pocket.evaluate {params.base} --per-tag 1000 --out {params.out} > {log} 2>&1"


rule pocket_reward:
    input:
        samples=rules.pocket_samples.output,
        base=rules.pocket_base.output,
    output:
        touch(f"{REBUILT}/{{metric}}.done"),
    log:
        f"{REBUILT}/logs/{{metric}}.log",
    conda:
        "../environment.yml"
    threads: 1
    params:
        out=subpath(output[0], strip_suffix=".done"),
        samples=lambda wildcards, input: Path(input.samples[0]).parent,
        base=lambda wildcards, input: input[-1].removesuffix(".done"),
    message:
        "rebuild the pocket reward {wildcards.metric}"
    shell:
        "python -m pocket.rewards.train --metric {wildcards.metric} --out {params.out}"
        " --samples {params.samples} --base {params.base} > {log} 2>&1"


rule pocket_sd3:
    input:
        rules.pocket_base.output,
    output:
        touch(f"{REBUILT}/sd3.done"),
    log:
        f"{REBUILT}/logs/sd3.log",
    conda:
        "../environment.yml"
    threads: 1
    params:
        out=subpath(output[0], strip_suffix=".done"),
        base=subpath(input[0], strip_suffix=".done"),
    message:
        "rebuild the pocket SD3"
    shell:
        "python -m pocket.sd3 --out {params.out} --base {params.base} > {log} 2>&1"


# Both models paint the same prompts; the rebuilt one's images are new to the rewards.
rule pocket_weights:
    input:
        rules.pocket_base.output,
        rules.pocket_sd3.output,
        expand(rules.pocket_reward.output, metric=REWARDS),
    output:
        f"{REBUILT}/comparison.md",
    log:
        f"{REBUILT}/logs/comparison.log",
    conda:
        "../environment.yml"
    threads: 1
    params:
        rebuilt=subpath(output[0], parent=True),
        shipped="pocket/weights",
    message:
        "compare the rebuilt pocket weights with the shipped ones"
    shell:
        "(python -m pocket.evaluate {params.rebuilt}/base {params.shipped}/base --per-tag 200"
        " --seed 1 --out {params.rebuilt}/unseen && echo &&"
        " python -m pocket.evaluate {params.rebuilt}/sd3 {params.shipped}/sd3 --per-tag 200"
        " --seed 1 --guidance 2 && echo &&"
        " python -m pocket.rewards.check --weights {params.rebuilt} {params.shipped}"
        " --samples {params.rebuilt}/unseen) > {output} 2> {log} && cat {output}"
