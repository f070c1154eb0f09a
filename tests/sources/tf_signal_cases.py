"""Fourier transforms and audio front ends. See ``tf_flow.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tests.sources.tf_flow import Built, Case, placeholder, random

raw = tf.raw_ops


def _parts(transform: Callable[[Any], Any], size: int) -> Case:
    def build() -> Built:
        z = transform(placeholder("x", None, size))
        return {"real": tf.math.real(z), "imaginary": tf.math.imag(z)}, [{"x": random(3, size)}]

    return Case(build)


def _complex(x: Any) -> Any:
    return tf.complex(x, tf.reverse(x, [1]) * 0.5)


def _back() -> Built:
    x = placeholder("x", None, 32)
    z = tf.signal.rfft(x) * tf.cast(tf.reduce_max(x, -1, keepdims=True), tf.complex64)
    return {"y": tf.signal.irfft(z), "odd": tf.signal.irfft(z, [31])}, [{"x": random(3, 32)}]


def _arithmetic() -> Built:
    x = placeholder("x", None, 16)
    z = tf.signal.rfft(x)
    w = tf.math.conj(z) * z / tf.constant(2.0 + 1.0j, tf.complex64) + z
    w = tf.transpose(tf.reshape(w, [-1, 3, 3]), [0, 2, 1])[:, 1:]
    return {"size": tf.abs(w), "angle": tf.math.angle(z[:, 1:4] + 3.0)}, [{"x": random(3, 16)}]


def _stft(size: int | None, frame: int, step: int, length: int | None) -> Case:
    def build() -> Built:
        x = placeholder("x", None, size)
        feeds = [{"x": random(2, size or 800)}, {"x": random(1, size or 1200)}]
        return {"y": tf.abs(tf.signal.stft(x, frame, step, fft_length=length))}, feeds

    return Case(build)


def _coefficients() -> Built:
    x = placeholder("x", None, 1600)
    power = tf.abs(tf.signal.stft(x, 400, 160, fft_length=512)) ** 2
    mel = tf.tensordot(power, tf.signal.linear_to_mel_weight_matrix(20, 257, 16000, 80.0, 7600.0), 1)
    found = tf.signal.mfccs_from_log_mel_spectrograms(tf.math.log(mel + 1e-6))
    return {"y": found[..., :13]}, [{"x": random(2, 1600)}]


def _spectrogram(size: int, stride: int, *, squared: bool, cepstral: bool = False) -> Case:
    def build() -> Built:
        x = placeholder("x", 1600, 2)
        y = raw.AudioSpectrogram(input=x, window_size=size, stride=stride, magnitude_squared=squared)
        if cepstral:
            y = raw.Mfcc(
                spectrogram=y, sample_rate=16000, dct_coefficient_count=11, filterbank_channel_count=30,
                upper_frequency_limit=7000.0, lower_frequency_limit=100.0,
            )  # fmt: skip
        return {"y": y}, [{"x": random(1600, 2)}, {"x": np.zeros((1600, 2), np.float32)}]

    return Case(build)


CASES = {
    "rfft": _parts(tf.signal.rfft, 64),
    "rfft_odd": _parts(tf.signal.rfft, 15),
    "rfft_filled": _parts(lambda x: tf.signal.rfft(x, [64]), 50),
    "rfft_cut": _parts(lambda x: tf.signal.rfft(x, [32]), 50),
    "fft": _parts(lambda x: tf.signal.fft(_complex(x)), 24),
    "ifft": _parts(lambda x: tf.signal.ifft(_complex(x)), 24),
    "back": Case(_back),
    "arithmetic": Case(_arithmetic),
    "stft": _stft(None, 128, 64, None),
    "stft_filled": _stft(800, 100, 40, 256),
    "coefficients": Case(_coefficients),
    "spectrogram": _spectrogram(400, 160, squared=True),
    "spectrogram_size": _spectrogram(256, 100, squared=False),
    "cepstrum": _spectrogram(480, 160, squared=True, cepstral=True),
}
