# What the length of a trajectory does to gradients and memory, and where leaps land, at the base's own weights.
rule trajectories:
    output:
        suite.trajectories,
    log:
        f"{suite.folder}/logs/trajectories.log",
    conda:
        "../environment.yml"
    threads: 1
    resources:
        gpu=1,
        seconds=120,
    params:
        settings=lambda wildcards: suite.measured(),
        data=lambda wildcards: suite.data("train", "leapalign"),
    message:
        "gradients and memory against the trajectory's length"
    shell:
        "python -m benchmarks.trajectories --settings {params.settings:q} --out {output:q} > {log:q} 2>&1"
