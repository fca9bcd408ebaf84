"""Record `tests/parity/saelens`: what sae-lens trained, saved and answers.

Run with a python that has sae-lens 6.54.12: `python tests/parity/record_saelens.py`.
"""

from pathlib import Path

import torch
from sae_lens import SAE, TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import save_file

OUT = Path(__file__).parent / "saelens"
D, N, K, BATCH = 8, 24, 3, 256

for name, rescaled, centred in (("rescaled", True, True), ("plain", False, False)):
    rng = torch.Generator().manual_seed(3)
    atoms = torch.randn(12, D, generator=rng)

    def rows(generator: torch.Generator = rng, features: torch.Tensor = atoms) -> torch.Tensor:
        on = torch.rand(BATCH, 12, generator=generator) < 0.2
        return (on * torch.rand(BATCH, 12, generator=generator)) @ features + 0.5

    config = TopKTrainingSAEConfig(
        d_in=D, d_sae=N, k=K, rescale_acts_by_decoder_norm=rescaled, apply_b_dec_to_input=centred
    )
    told = SAETrainerConfig(
        total_training_samples=200 * BATCH,
        train_batch_size_samples=BATCH,
        lr=1e-2,
        lr_end=1e-2,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trained = SAETrainer(told, TopKTrainingSAE(config), (rows() for _ in range(10**6))).fit()
    trained.save_inference_model(OUT / name)
    loaded = SAE.load_from_disk(OUT / name)
    given = rows()[:32]
    with torch.no_grad():
        code = loaded.encode(given)
        save_file(
            {"rows": given, "decoded": loaded.decode(code)}, OUT / name / "recorded.safetensors"
        )
