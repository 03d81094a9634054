"""Give our trainers to nnU-Net's search for external ones: point ``nnUNet_extTrainer`` at this folder.

nnU-Net imports every module of the folder, so this one stands alone in it.
"""

from pcl_auto.nnunet.training.joint_trainer import nnUNetTrainerPCL
from pcl_auto.nnunet.training.trainer import nnUNetTrainerPCLSupervised

__all__ = ["nnUNetTrainerPCL", "nnUNetTrainerPCLSupervised"]
