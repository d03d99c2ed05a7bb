"""Makes `emulator.npz`, a small network that replaces PROSAIL in the simulation.

Run it with python -m geomap.simulate.build_emulator. It needs the PyPI package `prosail` (the optional extra `train`);
the simulation itself reads only the file written here. PROSPECT-D (Feret et al. 2017) models the leaf, 4SAIL (Verhoef
et al. 2007) the canopy. The network leaves the ground out: at one wavelength the reflectance over a ground of
reflectance r is

    R(r) = a + d r + b r / (1 - c r)

(4SAIL's own algebra; d, the hot spot's correction, is small). So three grounds give a, b, c of every band, with d
folded into b, and any soil, litter, water or snow can lie below any canopy.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomap.sentinel2 import BAND_TABLE
from geomap.simulate.spectra import EMULATOR, PARAMETERS

log = logging.getLogger(__name__)

BANDWIDTH_NM = (66, 36, 31, 15, 15, 20, 106, 21, 91, 175)
"""Full widths of the ten bands, Sentinel-2A (ESA Sentinel-2 User Handbook); taken as box responses."""

GROUNDS = (0.05, 0.25, 0.6)
"""Reflectances of the three grounds from which a, b and c are solved."""

VIEW_ZENITH, RELATIVE_AZIMUTH, HOT_SPOT = 4.0, 100.0, 0.1
"""Sentinel-2's near-nadir view (within 10.3 degrees), across the sun's plane; a common hot-spot size."""


def sample_parameters(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Draw (n, 8) canopies over the ranges of PARAMETERS; small LAI more often, where spectra change most."""
    u = rng.random((n, len(PARAMETERS)))
    u[:, 0] = u[:, 0] ** 1.6
    low = np.array([p.low for p in PARAMETERS.values()])
    high = np.array([p.high for p in PARAMETERS.values()])
    sampled: NDArray[np.float64] = low + u * (high - low)
    return sampled


def band_coefficients(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """PROSAIL's (a, b, c) in ten bands, (n, 30), for canopies (n, 8). About 2 ms each."""
    import prosail  # an extra: only this function needs it

    wavelengths = np.arange(400, 2501)
    response = np.stack(
        [np.abs(wavelengths - b.wavelength) <= w / 2 for b, w in zip(BAND_TABLE, BANDWIDTH_NM, strict=True)]
    )
    response = response / response.sum(axis=1, keepdims=True)
    out = np.empty((len(parameters), 3 * len(BAND_TABLE)))
    for i, (lai, cab, brown, water, matter, layers, angle, sun) in enumerate(parameters):
        terms = prosail.run_prosail(
            layers, cab, 0.22 * cab + 1, brown, water, matter, lai, angle, HOT_SPOT, sun, VIEW_ZENITH, RELATIVE_AZIMUTH,
            prospect_version="D", typelidf=2, rsoil0=np.zeros(2101), factor="ALLALL",
        )  # fmt: skip
        tss, too, tsstoo, rdd, _, _, tsd, _, tdo, rso = terms[:10]
        at = []
        for r in GROUNDS:
            once = tsstoo * r + ((tss + tsd) * tdo + (tsd + tss * r * rdd) * too) * r / (1 - r * rdd)
            at.append(response @ (rso + once))
        out[i] = np.concatenate(solve_ground(np.stack(at)))
    return out


def solve_ground(
    reflectance: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Solve R = a + b r / (1 - c r) for (a, b, c), each (bands,), from reflectances (3, bands) over GROUNDS."""
    r1, r2, r3 = GROUNDS
    y1, y2, y3 = reflectance
    # (y2 - y1) / (y3 - y1) does not depend on a and b; its equation in c is linear: b r / (1 - c r) = b / (1 / r - c)
    g1, g2, g3 = 1 / r1, 1 / r2, 1 / r3
    k = (y2 - y1) / (y3 - y1) * (g1 - g3) / (g1 - g2)  # = (g3 - c) / (g2 - c)
    c = (k * g2 - g3) / (k - 1)
    b = (y2 - y1) / (1 / (g2 - c) - 1 / (g1 - c))
    return y1 - b / (g1 - c), b, c


def fit(
    x: NDArray[np.float64], y: NDArray[np.float64], width: int, steps: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Fit a network with two hidden layers to y (n, 30) from x (n, 8) scaled to -1..1; returns its arrays."""
    torch.manual_seed(seed)
    low = np.array([p.low for p in PARAMETERS.values()])
    high = np.array([p.high for p in PARAMETERS.values()])
    inputs = torch.tensor(2 * (x - low) / (high - low) - 1, dtype=torch.float32)
    mean, scale = y.mean(0), y.std(0)
    target = torch.tensor((y - mean) / scale, dtype=torch.float32)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], width), torch.nn.Tanh(), torch.nn.Linear(width, width), torch.nn.Tanh(),
        torch.nn.Linear(width, y.shape[1]),
    )  # fmt: skip
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for step in range(steps):
        i = torch.randint(len(inputs), (1024,))
        loss = (net(inputs[i]) - target[i]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 500 == 0:
            log.info("step %d loss %.5f", step, loss.item())
    arrays = {
        f"{k}{i}": p.detach().numpy()
        for i, layer in enumerate(net[::2])
        for k, p in zip("wb", layer.parameters(), strict=True)
    }
    return {
        "low": low.astype("f4"),
        "high": high.astype("f4"),
        "mean": mean.astype("f4"),
        "scale": scale.astype("f4"),
        **arrays,
    }


def build() -> None:
    """Sample PROSAIL, fit, report the error on unseen spectra, write the file."""
    parser = argparse.ArgumentParser(description=build.__doc__)
    parser.add_argument("--spectra", type=int, default=30_000)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--out", type=Path, default=EMULATOR)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    x = sample_parameters(np.random.default_rng(0), options.spectra)
    y = band_coefficients(x)
    held = options.spectra // 20
    arrays = fit(x[held:], y[held:], 64, options.steps, seed=0)
    np.savez(options.out, **arrays)  # type: ignore[arg-type]
    from geomap.simulate.spectra import Emulator

    emulator = Emulator.load(options.out)
    for ground in (0.1, 0.3):
        a, b, c = y[:held].reshape(held, 3, -1).transpose(1, 0, 2)
        error = emulator.reflectance(x[:held].astype("f4"), np.float32(ground)) - (a + b * ground / (1 - c * ground))
        log.info("RMSE over a ground of %.1f, by band: %s", ground, np.sqrt((error**2).mean(0)).round(4))


if __name__ == "__main__":
    build()
