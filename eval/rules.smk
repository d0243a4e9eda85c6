# Evaluation: every run's images of the same prompts and noise, their scores, and the run's ledger.

IMAGES = f"{suite.folder}/images/{{run}}/seed{{seed}}"
SCORES = f"{suite.folder}/scores/{{run}}/seed{{seed}}"
PROBES = f"{suite.folder}/probes/{{run}}/seed{{seed}}"
TRACK = f"{suite.folder}/track/{{run}}/seed{{seed}}"
LEDGER = f"{suite.folder}/ledger/{{run}}/seed{{seed}}"


# Images are no outputs: an interrupted job keeps those it has made.
rule generate:
    input:
        transformer=suite.transformer(rules.train.output.weights),
    output:
        manifest=f"{IMAGES}/manifest.jsonl",
        provenance=f"{IMAGES}/provenance.json",
    log:
        f"{suite.folder}/logs/generate/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=suite.seconds("generate"),
    params:
        settings=lambda wildcards: suite.settings(
            wildcards.run, wildcards.seed
        ).generate.json(),
        data=lambda wildcards: suite.data("generate", wildcards.run),
        out=subpath(output.manifest, parent=True),
    message:
        "generate {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.generate --settings {params.settings:q} --transformer {input.transformer:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# Beside each table stands a journal of finished scores, no output either; and GenEval's, on its prompts.
rule score:
    input:
        manifest=rules.generate.output.manifest,
    output:
        tables=[f"{SCORES}/{name}.csv" for name in suite.evaluators],
        provenance=f"{SCORES}/provenance.json",
    log:
        f"{suite.folder}/logs/score/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=suite.seconds("score"),
    params:
        settings=lambda wildcards: suite.settings(
            wildcards.run, wildcards.seed
        ).score.json(),
        data=lambda wildcards: suite.data("score", wildcards.run),
        images=subpath(input.manifest, parent=True),
        out=subpath(output.provenance, parent=True),
    message:
        "score {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.score --settings {params.settings:q} --images {params.images:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# What needs no model: artefacts, diversity, and how far the layout is from the untrained model's.
rule probe:
    input:
        manifest=rules.generate.output.manifest,
        base=suite.untrained(f"{IMAGES}/manifest.jsonl"),
    output:
        multiext(
            f"{PROBES}/",
            "high_frequency.csv",
            "saturation.csv",
            "clipping.csv",
            "diversity.csv",
            "layout.csv",
        ),
    log:
        f"{suite.folder}/logs/probe/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=suite.seconds("render"),
    params:
        images=subpath(input.manifest, parent=True),
        base=subpath(input.base, parent=True),
        out=subpath(output[0], parent=True),
    message:
        "probe {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.probes --images {params.images:q} --base {params.base:q}"
        " --out {params.out:q} > {log:q} 2>&1"


# Scores of a training's snapshots, and its last weights at a higher resolution; images are no outputs here either.
rule track:
    input:
        snapshots=lambda wildcards: (
            rules.train.output.snapshots if suite.trained(wildcards.run) else []
        ),
        transformer=suite.transformer(rules.train.output.weights),
    output:
        [
            f"{TRACK}/{name}"
            for name in ("progress.csv", "enlarged.png", "enlarged.json")
        ],
        provenance=f"{TRACK}/provenance.json",
    log:
        f"{suite.folder}/logs/track/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=suite.seconds("track"),
    params:
        settings=lambda wildcards: suite.track_settings(wildcards.run),
        data=lambda wildcards: [
            suite.data(stage, wildcards.run) for stage in ("generate", "score")
        ],
        work=lambda wildcards, output: f"{Path(output.provenance).parent}/work",
        out=subpath(output.provenance, parent=True),
    message:
        "track {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.track --settings {params.settings:q} --snapshots {input.snapshots:q}"
        " --transformer {input.transformer:q} --work {params.work:q} --out {params.out:q} > {log:q} 2>&1"


# All that the paper reads of a run; provenance.json is written last and stands for the whole.
rule ledger:
    input:
        train=lambda wildcards: (
            [rules.train.output.log, rules.train.output.provenance]
            if suite.trained(wildcards.run)
            else []
        ),
        images=suite.evaluated(f"{IMAGES}/provenance.json"),
        scores=suite.evaluated(f"{SCORES}/provenance.json"),
        probes=suite.evaluated(f"{PROBES}/diversity.csv"),
        track=lambda wildcards: (
            [suite.evaluated(f"{TRACK}/provenance.json")(wildcards)]
            if suite.tracked(wildcards.run)
            else []
        ),
    output:
        scores=f"{LEDGER}/scores.csv",
        sheet=f"{LEDGER}/samples.png",
        tiles=f"{LEDGER}/samples.json",
        provenance=f"{LEDGER}/provenance.json",
    log:
        f"{suite.folder}/logs/ledger/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=suite.seconds("render"),
    params:
        images=subpath(input.images, parent=True),
        scores=lambda wildcards, input: [
            Path(path).parent for path in (input.scores, input.probes)
        ],
        train=lambda wildcards, input: [Path(path).parent for path in input.train[:1]],
        track=lambda wildcards, input: [Path(path).parent for path in input.track],
        out=subpath(output.provenance, parent=True),
    message:
        "ledger {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m eval.ledger --images {params.images:q} --scores {params.scores:q}"
        " --train {params.train:q} --track {params.track:q} --out {params.out:q} > {log:q} 2>&1"


# The prompts that the paper trains and evaluates on, from their sources; any file of the user's own does as well:
#   snakemake --cores 1 fetch_prompts [--config mirror=DIR]
rule fetch_prompts:
    log:
        f"{suite.folder}/logs/fetch_prompts.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        mirror=suite.mirror,
    message:
        "fetch the paper's prompts"
    shell:
        "(env -u TQDM_DISABLE TQDM_POSITION=-1 python -m leapalign.fetch hpdv2 mjhq {params.mirror:q}"
        " && python -m eval.prompts) 2>&1 | tee {log:q}"
