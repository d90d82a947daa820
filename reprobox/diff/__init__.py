"""What differs between two runs, and what that means. Pure: records, locks and trails in, values out.

Start at `compare.compare_records` (the whole tree), `judge.judge_reruns` (did it come out the same?),
`trail.find_divergence` (the first stage at which two runs part) or `findings.find_mistakes` (what an evaluation did
that it should not).
Never opens a file, starts a run or prints. Whoever calls it has loaded and checked what it is given.

Laws: compared with itself a run differs in nothing; the other way round every difference is the same, reversed.
"""
