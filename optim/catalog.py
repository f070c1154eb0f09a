"""The one table of passes: name → class. A new pass is one module, one line here, one test file."""

from __future__ import annotations

from collections.abc import Callable

from optim.contract import Pass
from optim.passes.affine_as_depthwise import AffineAsDepthwise
from optim.passes.choose_layout import ChooseLayout
from optim.passes.crop_transposed_convolutions import CropTransposedConvolutions
from optim.passes.deduplicate_initializers import DeduplicateInitializers
from optim.passes.dilate_convolutions import DilateConvolutions
from optim.passes.eliminate_common_subexpressions import EliminateCommonSubexpressions
from optim.passes.eliminate_noops import EliminateNoops
from optim.passes.expand_gates import ExpandGates
from optim.passes.faster_sites import SpeedPass
from optim.passes.fold_batchnorm import FoldBatchnorm
from optim.passes.fold_constants import FoldConstants
from optim.passes.fold_pads import FoldPads
from optim.passes.freeze_shapes import FreezeShapes
from optim.passes.fuse_clips import FuseClips
from optim.passes.fuse_gelu import FuseGelu
from optim.passes.fuse_gemm import FuseGemm
from optim.passes.fuse_hardswish import FuseHardswish
from optim.passes.fuse_layer_norm import FuseLayerNorm
from optim.passes.fuse_prelu import FusePrelu
from optim.passes.fuse_quotients import FuseQuotients
from optim.passes.fuse_softmax import FuseSoftmax
from optim.passes.hoist_scales import HoistScales
from optim.passes.infer_shapes import InferShapes
from optim.passes.inline_functions import InlineFunctions
from optim.passes.join_slices import JoinSlices
from optim.passes.keep_reduced_axes import KeepReducedAxes
from optim.passes.lift_constants import LiftConstants
from optim.passes.lrn_as_convolution import LrnAsConvolution
from optim.passes.make_padding_explicit import MakePaddingExplicit
from optim.passes.remove_dead_ends import RemoveDeadEnds
from optim.passes.sign_pool_borders import SignPoolBorders
from optim.passes.simplify import Simplify
from optim.passes.sink_channel_shuffles import SinkChannelShuffles
from optim.passes.split_gemm import SplitGemm
from optim.passes.winograd_convolution import WinogradConvolution

PASSES: dict[str, Callable[[], Pass]] = {
    "affine_as_depthwise": AffineAsDepthwise,
    "choose_layout": ChooseLayout,
    "crop_transposed_convolutions": CropTransposedConvolutions,
    "deduplicate_initializers": DeduplicateInitializers,
    "dilate_convolutions": DilateConvolutions,
    "eliminate_common_subexpressions": EliminateCommonSubexpressions,
    "eliminate_noops": EliminateNoops,
    "expand_gates": ExpandGates,
    "fold_batchnorm": FoldBatchnorm,
    "fold_constants": FoldConstants,
    "fold_pads": FoldPads,
    "freeze_shapes": FreezeShapes,
    "fuse_clips": FuseClips,
    "fuse_gelu": FuseGelu,
    "fuse_gemm": FuseGemm,
    "fuse_hardswish": FuseHardswish,
    "fuse_layer_norm": FuseLayerNorm,
    "fuse_quotients": FuseQuotients,
    "fuse_prelu": FusePrelu,
    "fuse_softmax": FuseSoftmax,
    "hoist_scales": HoistScales,
    "infer_shapes": InferShapes,
    "inline_functions": InlineFunctions,
    "join_slices": JoinSlices,
    "keep_reduced_axes": KeepReducedAxes,
    "lift_constants": LiftConstants,
    "lrn_as_convolution": LrnAsConvolution,
    "make_padding_explicit": MakePaddingExplicit,
    "remove_dead_ends": RemoveDeadEnds,
    "sign_pool_borders": SignPoolBorders,
    "simplify": Simplify,
    "sink_channel_shuffles": SinkChannelShuffles,
    "split_gemm": SplitGemm,
    "winograd_convolution": WinogradConvolution,
}

FORMS: dict[str, tuple[SpeedPass, ...]] = {
    "affine_as_depthwise": (AffineAsDepthwise(),),
    "expand_gates": (ExpandGates(),),
    "lrn_as_convolution": (LrnAsConvolution(),),
    "winograd_convolution": (
        WinogradConvolution(6),
        WinogradConvolution(6, grouped=True),
        WinogradConvolution(4, grouped=True),
    ),
}
"""Passes that pay only sometimes, with their forms: in a recipe, a site is rewritten only where one of them
is measured to be faster there."""
