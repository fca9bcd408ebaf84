# Everything a contributor or CI needs. The only prerequisites are Python 3.11+ (PYTHON=...), git and make.
# pip reads its own settings: for example, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
# avoids downloading the CUDA build of torch on a Linux machine without a GPU.

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-cuda check format accessibility bench attack-speed model-report erasure-report adversary-report dit-report esd-cost itd-report methods receler-report sae-bench left-out-report never-seen-report study
.NOTPARALLEL:

help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20

demo: .venv/.core ## Erase a concept from the bundled model, draw before and after
	$(BIN)/python examples/demo.py

# A process per core, each on one thread: tensors in tests are small, threads would only wait.
test: export OMP_NUM_THREADS := 1
test: check ## Everything CI runs: check, then the tests
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-cuda: .venv/.dev ## What erasers, attacks and runs promise, on a CUDA device
	$(BIN)/python -m pytest --device cuda --numprocesses 4 --dist worksteal tests/contract tests/attacks \
		tests/test_devices.py tests/test_run.py tests/test_train.py tests/test_gates.py tests/test_guides.py

check: .venv/.dev ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev ## Rewrite the sources in house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

accessibility: .venv/.browser ## The report in headless Chromium: axe-core, and printing
	$(BIN)/python -m pytest tests/report/test_accessibility.py

bench: .venv/.dev ## Time `efface erase`: start-up, full-size models, rivals (builds 12 GB once)
	$(BIN)/python -m benchmarks.erase_startup
	$(BIN)/python -m benchmarks.full_size

model-report: .venv/.dev ## Measure the bundled models against their bars (fetches the icon sets)
	$(BIN)/python -m recipes.emoji.report

attack-speed: .venv/.dev ## Time the search of prompts and the drawing of audits against plain loops
	$(BIN)/python -m benchmarks.ringabell
	$(BIN)/python -m benchmarks.audit_loop

never-seen-report: export OMP_NUM_THREADS := 1
never-seen-report: .venv/.dev ## What white-box attacks teach of things that the model never saw (fetches the icon sets)
	$(BIN)/python -W ignore -m studies.never_seen

left-out-report: .venv/.dev ## What is found where an edit leaves out rows or a way in
	$(BIN)/python -m studies.left_out

erasure-report: .venv/.dev ## UCE and RECE side by side on the bundled models
	$(BIN)/python -m studies.emoji_erasure

adversary-report: .venv/.dev ## The exact adversary beside RECE's strengths; certificate against attacks
	$(BIN)/python -m studies.adversary

study: .venv/.dev ## Every method on eight concepts of emoji, attacked (many hours; resumes)
	mkdir -p runs/emoji
	cp -n claims/study-emoji.json runs/emoji/study.json
	$(BIN)/efface compare studies/emoji.toml -o runs/emoji
	cp runs/emoji/study.json claims/study-emoji.json
	$(BIN)/efface leaderboard claims/study-emoji.json -o docs/leaderboard.md --force

dit-report: .venv/.dev ## Methods that rewrite or train the model, on the bundled transformer (resumes)
	$(BIN)/python -W ignore -m studies.dit_trained

esd-cost: .venv/.dev ## ESD's forwards against a literal transcription of its authors' loop
	$(BIN)/python -m studies.esd_cost

itd-report: .venv/.dev ## ItD on the bundled model: what is found, and what stays bit-exact
	$(BIN)/python -m studies.itd

methods: export OMP_NUM_THREADS := 1
methods: .venv/.dev ## Every method on objects, styles, a group and many at once (an hour; goes on where it was)
	$(BIN)/python -W ignore -m studies.methods

receler-report: .venv/.dev ## Receler on the bundled model: found, attacked, and what an update costs
	$(BIN)/python -m studies.receler

sae-bench: .venv/.dev ## Train a top-k autoencoder beside sae-lens (SAE_LENS=a python that has it)
	$(BIN)/python -m benchmarks.sae_speed

# A stamp says what was installed; pip runs again once a pin is newer than its stamp.
.venv/.browser: what := .[dev,report,browser]
.venv/.core: what := .
.venv/.dev: what := .[dev,recipes,report]
.venv/.core .venv/.dev .venv/.browser: pyproject.toml constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	@echo "installing '$(what)' into .venv (minutes the first time)"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '$(what)'
	@touch .venv/.core $@
