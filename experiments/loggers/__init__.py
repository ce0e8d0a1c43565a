"""Logs of training outside the run's own files: TensorBoard, MLflow and Weights & Biases, by one interface."""

from latentmix.experiments.loggers.base import Logger
from latentmix.experiments.loggers.mlflow import MLflow
from latentmix.experiments.loggers.tensorboard import TensorBoard
from latentmix.experiments.loggers.wandb import WandB

__all__ = ["Logger", "MLflow", "TensorBoard", "WandB"]
