import pytest
import torch
from torch import nn

from petseg.training.muon import Muon, orthogonal


def quintic(x: float) -> float:
    return 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5


def test_a_diagonal_matrix_by_hand() -> None:
    """Its singular values are its entries, so each step applies the quintic to each entry."""
    norm = 5.0  # of 3 and 4
    expected = [quintic(quintic(value / norm)) for value in (3.0, 4.0)]
    made = orthogonal(torch.diag(torch.tensor([3.0, 4.0]))[None], steps=2)[0]
    torch.testing.assert_close(made, torch.diag(torch.tensor(expected)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16), (2, 1, 7)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonal(matrices)
    assert made.shape == matrices.shape
    values = torch.linalg.svdvals(made)
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    torch.testing.assert_close(
        u @ torch.diag_embed(torch.diagonal(u.mT @ made @ v.mT, dim1=1, dim2=2)) @ v, made
    )


def test_the_size_of_a_gradient_does_not_matter() -> None:
    matrices = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonal(matrices * 1e4), orthogonal(matrices))
    assert not orthogonal(torch.zeros(1, 3, 3)).any()


def test_a_step_of_a_convolution_by_hand() -> None:
    weight = nn.Parameter(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    before, gradient = weight.detach().clone(), torch.randn(weight.shape)
    weight.grad = gradient.clone()
    Muon([{"params": [weight], "weight_decay": 0.5}], lr=0.1, momentum=0.9).step()
    matrix = gradient.permute(0, 2, 3, 1).reshape(1, 4, 18)
    step = (
        orthogonal(matrix).view(4, 3, 3, 2).permute(0, 3, 1, 2)
    )  # Nesterov's first step: 1.9 times the gradient
    torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.5) - 0.1 * step)


def test_vectors_move_as_with_sgd() -> None:
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    muon_, sgd = Muon([{"params": [ours]}], 0.1, 0.9), torch.optim.SGD([theirs], 0.1, 0.9, nesterov=True)
    for scale in (1.0, -0.5, 2.0):
        for parameter, optimizer in ((ours, muon_), (theirs, sgd)):
            parameter.grad = torch.tensor([0.3, 0.7]) * scale
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_weights_of_one_shape_step_together_as_they_would_alone() -> None:
    weights = [torch.randn(8, 4, 3, 3) for _ in range(2)] + [torch.randn(8, 4, 1, 1)]
    gradients = [torch.randn_like(weight) for weight in weights]

    def stepped(*places: int) -> list[torch.Tensor]:
        moved = [nn.Parameter(weights[place].clone()) for place in places]
        for parameter, place in zip(moved, places, strict=True):
            parameter.grad = gradients[place].clone()
        Muon([{"params": moved}], lr=0.1, momentum=0.9).step()
        return [parameter.detach() for parameter in moved]

    for alone, together in zip([stepped(place)[0] for place in range(3)], stepped(0, 1, 2), strict=True):
        torch.testing.assert_close(alone, together)


def test_each_block_of_a_large_matrix_is_made_orthogonal() -> None:
    weight = nn.Parameter(torch.zeros(8, 3, 3, 3))
    weight.grad = torch.randn(8, 3, 3, 3)
    gradient = weight.grad.permute(0, 2, 3, 1).reshape(2, 4, 27)
    Muon([{"params": [weight]}], lr=1.0, momentum=0.0, block_rows=4).step()
    moved = -weight.detach().permute(0, 2, 3, 1).reshape(2, 4, 27)
    torch.testing.assert_close(moved, orthogonal(gradient))


def test_a_parameter_without_a_gradient_does_not_change() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([{"params": [weight], "weight_decay": 1.0}], lr=1.0, momentum=0.9).step()
    assert torch.equal(weight, torch.ones(2, 2))
