"""Wrong mathematics must turn a test red: each mutant edits one function's source, and a named test has to object."""

from __future__ import annotations
import __future__

import importlib
import inspect
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import pytest

from contracts import test_solvers
from moo import test_diagnostics, test_fronts, test_gradient, test_pama, test_solver
from rl import test_advantages, test_kl, test_losses, test_masks


class Mutant(NamedTuple):
    """`old` → `new` in the source of `module:function` under pama_exp, which `test` must notice."""

    what: str
    target: str
    old: str
    new: str
    test: Callable[[], None]


def solver_contract(name: str) -> test_solvers.Recipe:
    return next(recipe for recipe in test_solvers.recipes() if recipe.name == name)


SURROGATE, VALUE_LOSS = "rl.losses:clipped_surrogate", "rl.losses:clipped_value_loss"
GAE, COMBINE, LINE = "rl.advantages:gae", "moo.pama:combine", "moo.pama:min_norm_weights_on_line"
is_ppo = test_losses.test_surrogate_is_ppos_in_value_and_gradient
double_sum = test_advantages.test_gae_is_the_double_sum_over_later_tokens
value_loss = test_losses.test_value_loss_is_half_the_worse_of_two_squared_errors
noon_token = test_pama.test_with_noon_each_token_uses_its_least_clipped_advantage
raw_token = test_pama.test_without_noon_each_token_uses_the_projection_of_zero
rewards_at_end = test_advantages.test_scores_arrive_at_the_last_token_and_kl_is_charged_on_each
whitening = test_advantages.test_whitening_is_numpys_per_objective_over_valid_tokens
clipping = test_diagnostics.test_clip_fraction_is_where_the_gradient_of_the_surrogate_is_cut_off
binding = test_diagnostics.test_binding_share_counts_the_least_noon_advantage_and_splits_ties


def optimal_on(kind: str, count: int) -> Callable[[], None]:
    return lambda: test_gradient.test_attains_the_norm_that_a_quadratic_program_attains(kind, count)


MUTANTS = [
    # PPO
    Mutant("drop the clip", SURROGATE, "ratio.clamp(1 - clip, 1 + clip)", "ratio", is_ppo),
    Mutant("clip one side only", SURROGATE, "clamp(1 - clip, 1 + clip)", "clamp(max=1 + clip)", is_ppo),
    Mutant("take the maximum", SURROGATE, "torch.minimum", "torch.maximum", is_ppo),
    Mutant("always clip", SURROGATE, "torch.minimum(ratio * kept, ", "(", is_ppo),
    Mutant("invert the ratio", SURROGATE, "log_probs - old_log_probs, 0)", "old_log_probs - log_probs, 0)", is_ppo),
    Mutant("descend instead of ascend", SURROGATE, "return -surrogate", "return surrogate", is_ppo),
    Mutant("un-mask the advantages", SURROGATE, "torch.where(mask, advantages, 0)", "advantages", is_ppo),
    Mutant(
        "un-mask the ratio",
        SURROGATE,
        "torch.where(mask, log_probs - old_log_probs, 0)",
        "(log_probs - old_log_probs)",
        test_losses.test_padding_has_no_effect_on_loss_or_gradient,
    ),
    Mutant(
        "divide each micro-batch by its own tokens",
        SURROGATE,
        "_divisor(mask, token_count)",
        "_divisor(mask, None)",
        test_losses.test_micro_batches_add_up_to_the_mini_batch,
    ),
    Mutant("divide by padded tokens", "rl.losses:_divisor", "mask.sum().clamp(min=1)", "mask.numel()", is_ppo),
    Mutant("take the better value error", VALUE_LOSS, "torch.maximum", "torch.minimum", value_loss),
    Mutant("drop the value clip", VALUE_LOSS, "if clip is not None", "if False", value_loss),
    Mutant("forget the half", VALUE_LOSS, "0.5 * ", "", value_loss),
    Mutant("un-mask the value loss", VALUE_LOSS, "torch.where(mask, errors, 0)", "errors", value_loss),
    Mutant(
        "report unexplained variance",
        "rl.losses:explained_variance",
        "1 - residual / total",
        "residual / total",
        test_losses.test_explained_variance,
    ),
    # advantages
    Mutant("do not discount values", GAE, "gamma * next_value", "next_value", double_sum),
    Mutant("do not discount advantages", GAE, "gamma * lam *", "lam *", double_sum),
    Mutant("ignore lambda", GAE, "gamma * lam *", "gamma *", double_sum),
    Mutant("run forwards in time", GAE, "reversed(range(mask.shape[1]))", "range(mask.shape[1])", double_sum),
    Mutant("bootstrap from padding", GAE, "torch.where(mask, values, 0)", "values", double_sum),
    Mutant("count rewards on padding", GAE, "torch.where(mask, rewards, 0)", "rewards", double_sum),
    Mutant("leave advantages on padding", GAE, "return torch.where(mask, advantages, 0)", "return advantages - values + values + ~mask", double_sum),
    Mutant("score every token", "rl.advantages:token_rewards", "(positions == last_token(response_mask)[:, None]) & ", "", rewards_at_end),
    Mutant("score without a response", "rl.advantages:token_rewards", " & response_mask", "", rewards_at_end),
    Mutant("reward divergence", "rl.advantages:token_rewards", " - torch.where", " + torch.where", rewards_at_end),
    Mutant("charge KL on padding", "rl.advantages:token_rewards", "torch.where(response_mask, kl_penalty, 0)", "kl_penalty", rewards_at_end),
    Mutant("keep the mean", "rl.advantages:center_and_scale", "advantages - _token_mean(advantages, mask)", "advantages", whitening),
    Mutant("lose the mean", "rl.advantages:scale_about_mean", " + _token_mean(advantages, mask)", "", whitening),
    Mutant("whiten objectives together", "rl.advantages:_inverse_deviation", "masked_variance(values, mask, (-2, -1)).sqrt()[..., None, None]", "masked_variance(values, mask).sqrt().expand(len(values), 1, 1)", whitening),
    Mutant(
        "blow up rounding",
        "rl.advantages:_inverse",
        "10 * torch.finfo(deviation.dtype).eps * magnitude",
        "0",
        lambda: test_advantages.test_advantages_that_do_not_vary_become_zero(0.3),
    ),
    Mutant("keep negatives only", "rl.advantages:noon", "min=0", "max=0", test_advantages.test_noon_clips_at_zero),
    Mutant(
        "leave none out",
        "rl.advantages:leave_one_out",
        "(groups.sum(-1, keepdim=True) - groups) / (group_size - 1)",
        "groups.mean(-1, keepdim=True)",
        test_advantages.test_leave_one_out_compares_each_response_with_the_others_of_its_group,
    ),
    Mutant(
        "interleave the groups",
        "rl.advantages:_grouped",
        "rewards.reshape(len(rewards), -1, group_size)",
        "rewards.reshape(len(rewards), group_size, -1).mT",
        test_advantages.test_leave_one_out_compares_each_response_with_the_others_of_its_group,
    ),
    Mutant(
        "divide by the variance",
        "rl.advantages:group_standardise",
        ".sqrt()",
        "",
        test_advantages.test_group_standardise_is_numpys_within_each_group,
    ),
    Mutant(
        "spread over padding",
        "rl.advantages:broadcast_to_tokens",
        "torch.where(mask, values[:, :, None], 0)",
        "values[:, :, None] + 0 * mask",
        test_advantages.test_broadcast_gives_every_valid_token_its_responses_value,
    ),
    Mutant("average over padding", "rl.masks:masked_mean", "mask.expand_as(values)", "torch.ones_like(values)", test_masks.test_statistics_are_those_of_the_valid_tokens),
    Mutant("forget to square", "rl.masks:masked_variance", ".square()", ".abs()", test_masks.test_statistics_are_those_of_the_valid_tokens),
    Mutant("one past the last token", "rl.masks:last_token", "mask.sum(1) - 1", "mask.sum(1)", lambda: test_masks.test_last_token_is_the_last_valid_index(0)),
    # KL
    Mutant("swap policy and reference", "rl.kl:kl_estimate", "log_probs - reference_log_probs", "reference_log_probs - log_probs", test_kl.test_k1_and_k3_are_unbiased),
    Mutant("k3 of the reverse divergence", "rl.kl:kl_estimate", "torch.expm1(-log_ratio) + log_ratio", "torch.expm1(log_ratio) - log_ratio", test_kl.test_k1_and_k3_are_unbiased),
    Mutant("k2 without its half", "rl.kl:kl_estimate", "0.5 * ", "", test_kl.test_k2_is_close_where_the_policies_are),
    Mutant("do not clip the controller's error", "rl.kl:AdaptiveKL.update", "min(max(observed_kl / self.target - 1, -0.2), 0.2)", "observed_kl / self.target - 1", test_kl.test_adaptive_coefficient_follows_zieglers_rule),
    Mutant("turn the controller round", "rl.kl:AdaptiveKL.update", "1 + error", "1 - error", test_kl.test_adaptive_coefficient_follows_zieglers_rule),
    # PAMA
    Mutant("drop Noon", COMBINE, "advantages.clamp(min=0) if noon else advantages", "advantages", noon_token),
    Mutant("always Noon", COMBINE, "advantages.clamp(min=0) if noon else advantages", "advantages.clamp(min=0)", raw_token),
    Mutant("un-mask the padding", COMBINE, "torch.where(mask, advantages.clamp(min=0) if noon else advantages, 0)", "advantages.clamp(min=0)", noon_token),
    Mutant("solve for the maximum", LINE, "low, high = values.amin(0), values.amax(0)", "high, low = values.amin(0), values.amax(0)", test_pama.test_theorem_one_by_cases),
    Mutant("swap the two-point weights", LINE, "above / straddle", "below / straddle", test_pama.test_theorem_one_by_cases),
    Mutant("count ties twice", LINE, " / at_low.sum(0)", "", test_pama.test_theorem_one_by_cases),
    Mutant("project onto the far end", "moo.pama:s_star", "low.clamp(min=0) + high.clamp(max=0)", "high.clamp(min=0) + low.clamp(max=0)", test_pama.test_theorem_one_by_cases),
    Mutant("multiply by the preference", COMBINE, "kept / _relative", "kept * _relative", test_pama.test_preference_solves_over_scaled_advantages_and_weighs_unscaled_ones),
    Mutant("combine the scaled advantages", COMBINE, "(weights * kept)", "(weights * values)", test_pama.test_preference_solves_over_scaled_advantages_and_weighs_unscaled_ones),
    Mutant(
        "the batch's scalar as every token's advantage",
        COMBINE,
        "(weights * kept).sum(0)",
        "torch.where(mask, s_star(units), 0)",
        lambda: test_pama.test_batch_granularity_has_one_set_of_weights_but_a_signal_per_token(True),
    ),
    Mutant(
        "solve each response by the batch's mean",
        COMBINE,
        'granularity == "sequence"',
        "False",
        lambda: test_pama.test_sequence_granularity_weighs_a_whole_response_by_its_mean(True),
    ),
    Mutant(
        "forget the solver's preference",
        "moo.pama:PAMA.on_advantages",
        "preference=self.weights",
        "preference=None",
        lambda: test_pama.test_the_solver_applies_its_own_settings("token", True),
    ),
    Mutant(
        "favour the first objective",
        "moo.pama:PAMA.on_advantages",
        "return combined[None]",
        "return combined[None] + 0.1 * advantages[:1]",
        lambda: test_solvers.test_permutation_equivariant(solver_contract("pama"), "normal"),
    ),
    # scalarization and gradients
    Mutant("forget the weights", "moo.scalarizers:Linear.on_advantages", "self.weights.to(advantages)", "torch.ones(len(advantages))", test_solver.test_linear_weighs_rewards_or_advantages_and_never_both),
    Mutant("weigh in both places", "moo.scalarizers:Linear.on_rewards", 'self.space == "advantage"', "False", test_solver.test_linear_weighs_rewards_or_advantages_and_never_both),
    Mutant("do not normalise weights", "moo.solver:on_simplex", "given / given.sum()", "given", test_solver.test_weights_are_normalised_to_the_simplex),
    Mutant("swap the two gradients", "moo.gradient:_closed_form_of_two", "second - cross", "first - cross", optimal_on("normal", 2)),
    Mutant("leave the simplex", "moo.gradient:_closed_form_of_two", ".clamp(0, 1)", "", optimal_on("all positive", 2)),
    Mutant("stop at the shortest gradient", "moo.gradient:_wolfe", "-OPTIMALITY_TOLERANCE", "-1e9", optimal_on("normal", 5)),
    Mutant("never drop an objective", "moo.gradient:_minimise_within", "(affine <= 0)", "(affine < -1e9)", optimal_on("rank deficient", 5)),
    Mutant("ignore norms", "moo.gradient:_minimise_within", "inverse = 1 / norms[support]", "inverse = torch.ones_like(norms[support])", optimal_on("normal", 5)),
    Mutant("do not share among twins", "moo.gradient:_positive_definite", "min=CURVATURE_FLOOR", "min=0", test_gradient.test_ties_share),
    Mutant("divide by squared norms", "moo.gradient:normalise_gramian", "gramian.diagonal().clamp(min=0).sqrt()", "gramian.diagonal()", lambda: test_gradient.test_normalised_gramian_is_the_gramian_of_normalised_gradients("l2")),
    Mutant("keep the loss's sign", "moo.gradient:normalise_gramian", ".abs()", "", lambda: test_gradient.test_normalised_gramian_is_the_gramian_of_normalised_gradients("loss")),
    Mutant("wrong gradients", "moo.gradient:MGDA.on_losses", "gramian(self.target)", "gramian()", lambda: test_gradient.test_each_method_asks_for_its_own_gradients(test_gradient.gradient.MGDAUB, "hidden")),
    Mutant("pay for one objective's gradient", "moo.gradient:MGDA.on_losses", "len(losses) == 1", "False", lambda: test_solvers.test_single_objective_is_ppo(solver_contract("mgda"), 0)),
    # diagnostics and fronts
    Mutant("who binds least", "moo.diagnostics:binding_share", "positive.amin(0)", "positive.amax(0)", binding),
    Mutant("count ties in full", "moo.diagnostics:binding_share", "binds / binds.sum(0)", "binds", binding),
    Mutant("look at raw advantages", "moo.diagnostics:binding_share", "advantages.clamp(min=0)", "advantages", binding),
    Mutant("clip regardless of sign", "moo.diagnostics:clip_fraction", "(advantages < 0) & ", "", clipping),
    Mutant("count padding as clipped", "moo.diagnostics:_token_mean", "torch.where(response_mask, values, 0)", "values", binding),
    Mutant("do not centre", "moo.diagnostics:reward_signal_covariance", " - seen.sum(1, keepdim=True) / count", "", test_diagnostics.test_covariance_is_numpys_over_responses_that_have_tokens),
    Mutant("square the residual", "moo.diagnostics:stationarity_residual", ".sqrt()", "", test_diagnostics.test_stationarity_residual_is_the_norm_of_the_combined_gradient),
    Mutant("products, not cosines", "moo.diagnostics:gradient_cosines", " * inverse[None, :]", "", test_diagnostics.test_cosines_are_those_of_the_gradients),
    Mutant("minimise", "moo.fronts:hypervolume", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    Mutant("minimise the distance", "moo.fronts:igd_plus", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    Mutant("minimise the lift", "moo.fronts:epsilon", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    Mutant("keep the dominated", "moo.fronts:nondominated", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
]  # fmt: skip


def mutate(monkeypatch: pytest.MonkeyPatch, mutant: Mutant) -> None:
    """Replace the function by one compiled from its edited source, in the same module."""
    module_name, _, path = mutant.target.partition(":")
    module = importlib.import_module(f"pama_exp.{module_name}")
    *owners, name = path.split(".")
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(getattr(owner, name))))
    assert source.count(mutant.old) == 1, f"{mutant.old!r} stands {source.count(mutant.old)} times in {mutant.target}"
    code = compile(
        source.replace(mutant.old, mutant.new), mutant.target, "exec", __future__.annotations.compiler_flag, True
    )
    defined: dict[str, object] = {}
    exec(code, vars(module), defined)
    monkeypatch.setattr(owner, name, defined[name])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.target} {mutant.what}")
def test_mutant_is_noticed(monkeypatch, mutant):
    mutate(monkeypatch, mutant)
    with pytest.raises(AssertionError):
        mutant.test()


def test_the_tests_named_here_pass_on_the_real_code():
    for test in {mutant.test for mutant in MUTANTS}:
        test()
