"""The models. Importing this package makes transformers' AutoConfig and AutoModel know checkpoints of type "mdf"."""

from transformers import AutoConfig, AutoModel

from mdf.models.fusion import MDFConfig, MDFModel

AutoConfig.register(MDFConfig.model_type, MDFConfig, exist_ok=True)
AutoModel.register(MDFConfig, MDFModel, exist_ok=True)
