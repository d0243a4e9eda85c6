# Official weights, and training: a run's method and seed -> averaged weights, a log, provenance.


rule train:
    output:
        weights=directory(f"{suite.folder}/train/{{run}}/seed{{seed}}/weights"),
        log=f"{suite.folder}/train/{{run}}/seed{{seed}}/log.jsonl",
        snapshots=directory(f"{suite.folder}/train/{{run}}/seed{{seed}}/snapshots"),
        provenance=f"{suite.folder}/train/{{run}}/seed{{seed}}/provenance.json",
    log:
        f"{suite.folder}/logs/train/{{run}}-seed{{seed}}.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        **suite.training_resources(),
        runtime=lambda wildcards: suite.minutes(wildcards.run),
        seconds=lambda wildcards: suite.seconds("train", wildcards.run),
    params:
        settings=lambda wildcards: suite.train_settings(wildcards.run, wildcards.seed),
        checkpoints=lambda wildcards: suite.checkpoints(wildcards.run, wildcards.seed),
        data=lambda wildcards: suite.data("train", wildcards.run),
        curves=lambda wildcards: suite.curves(wildcards.run, wildcards.seed),
        watched=lambda wildcards: suite.snapshots(wildcards.run),
        out=subpath(output.log, parent=True),
    message:
        "train {wildcards.run}, seed {wildcards.seed}"
    shell:
        # In the shell's place, so that a scheduler's signal reaches it.
        "exec python -m leapalign.launch --nodes {resources.nodes} --settings {params.settings:q}"
        " --checkpoints {params.checkpoints:q} --out {params.out:q} --curves {params.curves:q} --run {wildcards.run:q}"
        " {params.watched} > {log:q} 2>&1"


# Official weights and prompts, by their names in leapalign/registry.yaml; without a name it lists them:
#   snakemake --cores 1 fetch_weights --config fetch="hpsv2 geneval" [mirror=DIR]
rule fetch_weights:
    log:
        f"{suite.folder}/logs/fetch_weights.log",
    localrule: True
    conda:
        "../environment.yml"
    params:
        names=suite.downloads,
        mirror=suite.mirror,
    message:
        "fetch official weights"
    shell:
        # The bars are wanted here, though they are written to a pipe.
        "env -u TQDM_DISABLE TQDM_POSITION=-1 python -m leapalign.fetch {params.names:q} {params.mirror:q}"
        " 2>&1 | tee {log:q}"


# What each direct-gradient method does to a trajectory, read off the Plans it draws: nothing is trained.
rule designs:
    output:
        suite.designs,
    log:
        f"{suite.folder}/logs/designs.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        seconds=20,
    params:
        runs=suite.surveyed(),
        code=suite.methods_code,
    message:
        "designs of the methods"
    shell:
        "python -m leapalign.survey --runs {params.runs:q} --out {output:q} > {log:q} 2>&1"
