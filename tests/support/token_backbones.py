"""Small backbones with random weights of the real classes of keras-hub."""

SHAPE, PATCH = (28, 28, 3), 7
SIZES = {"num_layers": 2, "num_heads": 2, "hidden_dim": 16}


def make_token_backbone(name, shape=SHAPE):
    """Returns a backbone of keras-hub: 4 x 4 patches of 7 x 7 pixels, two blocks, features of size 16."""
    from keras_hub import models

    sizes = {**SIZES, "patch_size": PATCH, "image_shape": shape}
    if name == "vit":
        return models.ViTBackbone(mlp_dim=16, **sizes)
    sizes["intermediate_dim"] = 16
    if name == "dinov2":
        return models.DINOV2Backbone(num_register_tokens=2, position_embedding_shape=SHAPE, **sizes)
    if name == "dinov3":
        return models.DINOV3Backbone(**sizes)
    text = {**SIZES, "vocabulary_size": 16, "embedding_dim": 16, "intermediate_dim": 16, "max_sequence_length": 8}
    if name == "clip":
        return models.CLIPBackbone(models.CLIPVisionEncoder(**sizes), models.CLIPTextEncoder(**text), 16)
    return models.SigLIPBackbone(
        models.SigLIPVisionEncoder(**sizes), models.SigLIPTextEncoder(projection_dim=16, **text)
    )
