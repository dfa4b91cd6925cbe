"""Trains RecBole's GRU4Rec without this package: ``plain_recbole.py NAME SETTINGS.yaml CHECKPOINT_DIR``."""

import json
import sys

import numpy as np

TINY = {
    "embedding_size": 8,
    "hidden_size": 8,
    "epochs": 1,
    "train_batch_size": 64,
    "learning_rate": 0.01,
    "metrics": ["Recall", "NDCG"],
    "topk": [5],
    "valid_metric": "NDCG@5",
    "use_gpu": False,
    "gpu_id": "",
    "show_progress": False,
    "state": "ERROR",
}


def main(name: str, settings: str, checkpoint_dir: str) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.sequential_recommender import GRU4Rec
    from recbole.trainer import Trainer
    from recbole.utils import init_seed

    given = {**TINY, "checkpoint_dir": checkpoint_dir}
    config = Config(model="GRU4Rec", dataset=name, config_file_list=[settings], config_dict=given)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    train, valid, test = data_preparation(config, dataset)
    model = GRU4Rec(config, train.dataset)
    trainer = Trainer(config, model)
    before = model.item_embedding.weight.detach().clone()
    _, best_valid = trainer.fit(train, valid, saved=False, show_progress=False)
    result = {
        "rows": [len(loader.dataset) for loader in (train, valid, test)],
        "items": [str(token) for token in dataset.field2id_token["item_id"]],
        "users": [str(token) for token in dataset.field2id_token["user_id"]],
        "moved": float((model.item_embedding.weight - before).abs().max()),
        "loss": trainer.train_loss_dict[0],
        "valid": dict(best_valid),
        "test": dict(trainer.evaluate(test, load_best_model=False, show_progress=False)),
        "imported": sorted(name for name in sys.modules if name.split(".")[0] in ("recbole_ra", "ray")),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    # RecBole 1.2.1 was written for NumPy 1 and reads names that NumPy 2 removed.
    for old, kind in {"float_": np.float64, "complex_": np.complex128, "unicode_": np.str_}.items():
        if not hasattr(np, old):
            setattr(np, old, kind)
    arguments = sys.argv[1:]
    sys.argv = sys.argv[:1]  # RecBole takes what is there for settings
    main(*arguments)
