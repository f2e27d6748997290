"""scripts/download_weights.py against a server on this machine; names of published weights in the eval scripts."""

import errno
import io
from unittest import mock

import pytest
import torch

import eval_generic
import model.weights
from model.config import NetworkConfig
from model.network import load_network
from model.weights import PUBLISHED
from scripts import download_weights
from tests.reference import state_dict
from tests.videos import blocks, own_data


def test_published_weights(tmp_path, server, evaluate, monkeypatch, capsys):
    saves = tmp_path / "saves"
    data = own_data(tmp_path / "data", {"a": {0: blocks((32, 48), 1)}}, frames=2)
    monkeypatch.setattr(model.weights, "SAVES", saves)
    code, _, error = evaluate(eval_generic, "--data_path", data, "--model", "stcn")
    assert code == 2 and f"{saves / 'stcn.pth'}: no such file; python scripts/download_weights.py stcn" in error

    flags = ["stcn", "--saves", str(saves), "--mirror", server.url]
    server.files["stcn.pth"] = b"<html>Quota exceeded</html>"
    with pytest.raises(SystemExit):
        download_weights.main(flags)
    assert "sent something else than the weights" in capsys.readouterr().err and not list(saves.iterdir())

    state = state_dict("stcn")
    file = io.BytesIO()
    torch.save(state, file)
    server.files["stcn.pth"], server.cut = file.getvalue(), 1_000_000
    for error in (MemoryError(), PermissionError(errno.EACCES, "Permission denied")):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(torch, "load", mock.Mock(side_effect=error))
            download_weights.main(flags)
        assert [path.name for path in saves.iterdir()] == ["stcn_original.pth"]
    download_weights.main(flags)
    assert (saves / "stcn_original.pth").read_bytes() == file.getvalue()
    network = load_network(saves / "stcn.pth")
    assert network.config == NetworkConfig.preset("stcn")
    assert torch.equal(network.key_proj.weight, state["key_proj.key_proj.weight"])
    assert evaluate(eval_generic, "--data_path", data, "--model", "stcn")[0] == 0
    requests = len(server.begins)
    download_weights.main(flags)
    assert len(server.begins) == requests


def test_every_name_is_listed(capsys):
    download_weights.main([])
    listed = capsys.readouterr().out
    assert tuple(download_weights.WEIGHTS) == PUBLISHED
    assert all(f"{name}: " in listed and weights.url in listed for name, weights in download_weights.WEIGHTS.items())
