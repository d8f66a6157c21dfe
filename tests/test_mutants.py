"""Wrong mathematics must turn a test red: each mutant edits one function's source, and a named test has to object."""

from __future__ import annotations
import __future__

import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import pytest

from comparison import test_reference
from conformance import Recipe, recipes
from contracts import test_solvers
from metrics import test_diagnostics, test_fronts
from rl import test_advantages, test_kl, test_losses, test_masks
from solvers import (
    test_adaptive,
    test_balancing,
    test_gradient,
    test_group,
    test_loss_scalarizers,
    test_pama,
    test_solver,
    test_tchebycheff,
    test_weighted,
)
from supervised import test_supervised
from training import test_whole_step


class Mutant(NamedTuple):
    """`old` → `new` in the source of `module:function` under pama_exp, which `test` must notice."""

    what: str
    target: str
    old: str
    new: str
    test: Callable[[], None]


def solver_contract(name: str) -> Recipe:
    return next(recipe for recipe in recipes() if recipe.name == name)


SURROGATE, VALUE_LOSS = "rl.losses:clipped_surrogate", "rl.losses:clipped_value_loss"
GAE, COMBINE, LINE = "rl.advantages:gae", "solvers.pama:combine", "solvers.pama:min_norm_weights_on_line"
is_ppo = test_losses.test_surrogate_is_ppos_in_value_and_gradient
double_sum = test_advantages.test_gae_is_the_double_sum_over_later_tokens
value_loss = test_losses.test_value_loss_is_half_the_worse_of_two_squared_errors
noon_token = test_pama.test_with_noon_each_token_uses_its_least_clipped_advantage
raw_token = test_pama.test_without_noon_each_token_uses_the_projection_of_zero
rewards_at_end = test_advantages.test_scores_arrive_at_the_last_token_and_kl_is_charged_on_each
whitening = test_advantages.test_whitening_is_numpys_per_objective_over_valid_tokens
clipping = test_diagnostics.test_clip_fraction_is_where_the_gradient_of_the_surrogate_is_cut_off
binding = test_diagnostics.test_binding_share_counts_the_least_noon_advantage_and_splits_ties


def whole_step(case: str) -> Callable[[], None]:
    return lambda: test_whole_step.test_a_step_is_that_of_the_equations(case)


COLLECT, LEARN, TERMS = (
    "training.alignment:Alignment._collect",
    "training.alignment:Alignment._learn",
    "training.update:MiniBatchLoss._terms",
)
step_reward, step_loss = whole_step("KL in the reward"), whole_step("KL k3 in the loss, losses weighed")


def optimal_on(kind: str, count: int) -> Callable[[], None]:
    return lambda: test_gradient.test_attains_the_norm_that_a_quadratic_program_attains(kind, count)


MUTANTS = [
    # PPO
    Mutant("drop the clip", SURROGATE, "ratio.clamp(1 - clip, 1 + clip)", "ratio", is_ppo),
    Mutant("clip one side only", SURROGATE, "clamp(1 - clip, 1 + clip)", "clamp(max=1 + clip)", is_ppo),
    Mutant("take the maximum", SURROGATE, "torch.minimum", "torch.maximum", is_ppo),
    Mutant("always clip", SURROGATE, "torch.minimum(ratio * advantages, ", "(", is_ppo),
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
    Mutant("project onto the far end", "solvers.pama:s_star", "low.clamp(min=0) + high.clamp(max=0)", "high.clamp(min=0) + low.clamp(max=0)", test_pama.test_theorem_one_by_cases),
    Mutant("multiply by the preference", COMBINE, "advantages / _relative", "advantages * _relative", test_pama.test_preference_solves_over_scaled_advantages_and_weighs_unscaled_ones),
    Mutant("combine the scaled advantages", COMBINE, "(weights * advantages)", "(weights * values)", test_pama.test_preference_solves_over_scaled_advantages_and_weighs_unscaled_ones),
    Mutant(
        "the batch's scalar as every token's advantage",
        COMBINE,
        "(weights * advantages).sum(0)",
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
        "solvers.pama:PAMA.on_advantages",
        "self.weights if self.preferences is None",
        "None if self.preferences is None",
        lambda: test_pama.test_the_solver_applies_its_own_settings("token", True),
    ),
    Mutant(
        "favour the first objective",
        "solvers.pama:PAMA.on_advantages",
        "return combined[None]",
        "return combined[None] + 0.1 * advantages[:1]",
        lambda: test_solvers.test_permutation_equivariant(solver_contract("pama")),
    ),
    # scalarization and gradients
    Mutant("forget the weights", "solvers.solver:Solver.weighted_sum", "self.weights.to(values)", "torch.ones(len(values))", test_solver.test_linear_weighs_rewards_or_advantages_and_never_both),
    Mutant("weigh all responses alike", "solvers.solver:Solver.weights_of", "if self.preferences is None", "if True", lambda: test_solvers.test_each_response_is_weighed_by_its_own_preference(solver_contract("tchebycheff"))),
    Mutant("bind all responses alike", "solvers.pama:PAMA.on_advantages", "self.weights if self.preferences is None", "self.weights if True", lambda: test_solvers.test_each_response_is_weighed_by_its_own_preference(solver_contract("pama"))),
    Mutant("what has no weight decides", "solvers.group:RVPO.on_advantages", "advantages = torch.where(weights > 0, advantages, torch.inf)", "pass", test_group.test_an_objective_without_weight_has_no_say_in_rvpo),
    Mutant("weigh in both places", "solvers.scalarizers:Linear.on_rewards", 'self.space == "advantage"', "False", test_solver.test_linear_weighs_rewards_or_advantages_and_never_both),
    Mutant("do not normalise weights", "solvers.solver:on_simplex", "values / values.sum()", "values", test_solver.test_weights_are_normalised_to_the_simplex),
    Mutant("swap the two gradients", "solvers.gradient:_closed_form_of_two", "second - cross", "first - cross", optimal_on("normal", 2)),
    Mutant("leave the simplex", "solvers.gradient:_closed_form_of_two", ".clamp(0, 1)", "", optimal_on("all positive", 2)),
    Mutant("stop at the shortest gradient", "solvers.gradient:_wolfe", "-OPTIMALITY_TOLERANCE", "-1e9", optimal_on("normal", 5)),
    Mutant("never drop an objective", "solvers.gradient:_minimise_within", "(affine <= 0)", "(affine < -1e9)", optimal_on("rank deficient", 5)),
    Mutant("ignore norms", "solvers.gradient:_minimise_within", "inverse = 1 / norms[support]", "inverse = torch.ones_like(norms[support])", optimal_on("normal", 5)),
    Mutant("do not share among twins", "solvers.gradient:_positive_definite", "min=CURVATURE_FLOOR", "min=0", test_gradient.test_ties_share),
    Mutant("divide by squared norms", "solvers.gradient:normalise_gramian", "gramian.diagonal().clamp(min=0).sqrt()", "gramian.diagonal()", lambda: test_gradient.test_normalised_gramian_is_the_gramian_of_normalised_gradients("l2")),
    Mutant("keep the loss's sign", "solvers.gradient:normalise_gramian", ".abs()", "", lambda: test_gradient.test_normalised_gramian_is_the_gramian_of_normalised_gradients("loss")),
    Mutant("wrong gradients", "solvers.gradient:MGDA.on_losses", "gramian(self.target)", "gramian()", lambda: test_gradient.test_each_method_asks_for_its_own_gradients(test_gradient.gradient.MGDAUB, "hidden")),
    Mutant("pay for one objective's gradient", "solvers.gradient:MGDA.on_losses", "len(losses) == 1", "False", lambda: test_solvers.test_single_objective_is_ppo(solver_contract("mgda"))),
    # solvers by family
    Mutant("reward the distance", "solvers.tchebycheff:Tchebycheff.on_rewards", "-shortfall.amax(0)", "shortfall.amax(0)", lambda: test_tchebycheff.test_is_the_weighted_distance_in_the_worst_objective(0.0)),
    Mutant("the best objective counts", "solvers.tchebycheff:Tchebycheff.on_rewards", "(-shortfall.amax(0)", "(-shortfall.amin(0)", lambda: test_tchebycheff.test_is_the_weighted_distance_in_the_worst_objective(0.0)),
    Mutant("forget the augmentation", "solvers.tchebycheff:Tchebycheff.on_rewards", "self.rho * ", "0 * ", lambda: test_tchebycheff.test_is_the_weighted_distance_in_the_worst_objective(0.05)),
    Mutant("forget to multiply by the smoothness", "solvers.tchebycheff:SmoothTchebycheff.on_rewards", "-self.mu * ", "-", test_tchebycheff.test_smooth_is_the_soft_maximum_and_becomes_tchebycheff),
    Mutant("calibrate on raw scores", "solvers.tchebycheff:Tchebycheff.calibrate", "rewards.amax(1)", "scores.amax(1)", lambda: test_tchebycheff.test_the_ideal_point_is_the_calibrations_best_and_then_frozen(test_tchebycheff.Tchebycheff)),
    Mutant("whiten by tokens", "solvers.group:whiten_responses", "torch.where(response_mask, values, 0).sum(1) / response_mask.sum(1).clamp(min=1))[counted]", "values[response_mask])", test_group.test_whitening_counts_responses_not_tokens_and_leaves_out_those_without_any),
    Mutant("count empty responses", "solvers.group:whiten_responses", "response_mask.any(1)", "response_mask.any(1) | True", test_group.test_whitening_counts_responses_not_tokens_and_leaves_out_those_without_any),
    Mutant("a soft maximum", "solvers.group:RVPO.on_advantages", "torch.expm1(-k", "torch.expm1(k", lambda: test_group.test_rvpo_is_the_soft_minimum(0.5)),
    Mutant("forget to divide by k", "solvers.group:RVPO.on_advantages", " / k\n", "\n", lambda: test_group.test_rvpo_is_the_soft_minimum(3.0)),
    Mutant("covariance across prompts", "solvers.adaptive:within_group_covariance", "grouped.mean(-1, keepdim=True)", "grouped.mean((1, 2), keepdim=True)", test_adaptive.test_covariance_is_numpys_within_each_group),
    Mutant("lift what is above its target", "solvers.adaptive:CTWA.on_advantages", "(self.target - average)", "(average - self.target)", test_adaptive.test_ctwa_lifts_the_objective_that_the_signal_works_against),
    Mutant("lower what is above its target", "solvers.adaptive:CTWA.on_advantages", ".clamp(min=0))", ")", test_adaptive.test_ctwa_lifts_the_objective_that_the_signal_works_against),
    Mutant("do not clip the signal", "solvers.adaptive:CTWA.on_advantages", "signal.clamp(-self.bound, self.bound)", "signal", test_adaptive.test_ctwa_clips_the_signal_it_measures),
    Mutant("do not divide by 1 + Σλ", "solvers.adaptive:Lagrangian.on_advantages", " / self.multipliers.sum()", "", test_adaptive.test_multipliers_rise_with_what_is_missed_are_capped_and_fall_to_zero),
    Mutant("no cap", "solvers.adaptive:Lagrangian.observe", "clamp(0, self.cap)", "clamp(min=0)", test_adaptive.test_multipliers_rise_with_what_is_missed_are_capped_and_fall_to_zero),
    Mutant("negative multipliers", "solvers.adaptive:Lagrangian.observe", "clamp(0, self.cap)", "clamp(max=self.cap)", test_adaptive.test_multipliers_rise_with_what_is_missed_are_capped_and_fall_to_zero),
    Mutant("the whole volume, not what is added", "solvers.adaptive:DynamicHypervolume.on_validation", " - hypervolume(self.archive, corner)", "", test_adaptive.test_the_multiplier_follows_what_a_validation_adds_to_the_hypervolume),
    Mutant("apply the step twice", "solvers.balancing:DynamicGradient.on_losses", "self.step_size * products", "self.step_size**2 * products", test_balancing.test_dynamic_weights_multiply_by_the_exponential_of_their_products_once),
    Mutant("only its own norm", "solvers.balancing:DynamicGradient.on_losses", "products.sum(1)", "products.diagonal()", test_balancing.test_dynamic_weights_multiply_by_the_exponential_of_their_products_once),
    Mutant("favour those ahead", "solvers.balancing:GradNorm.on_losses", "(gap / gap.mean())", "(gap.mean() / gap)", lambda: test_balancing.test_gradnorm_takes_a_gradient_step_on_its_own_objective(1.5)),
    Mutant("ascend", "solvers.balancing:GradNorm.on_losses", "self.current - self.step_size", "self.current + self.step_size", lambda: test_balancing.test_gradnorm_takes_a_gradient_step_on_its_own_objective(0.0)),
    Mutant("weigh rescaled gradients as if they were not", "solvers.gapo:GAPO.on_losses", "sizes[None, :]) / sizes", "sizes[None, :])", lambda: test_balancing.test_gapo_is_the_shortest_combination_of_rescaled_gradients(1)),
    Mutant("ignore the power", "solvers.gapo:GAPO.on_losses", " ** self.power", "", lambda: test_balancing.test_gapo_is_the_shortest_combination_of_rescaled_gradients(2)),
    Mutant("preference over raw gradients", "solvers.gapo:PGAPO.on_losses", " / _norms(gramian().detach().cpu().double())", "", test_balancing.test_p_gapo_is_the_preference_over_unit_gradients),
    Mutant("let torchjd see the size", "solvers.weighted:Weighted.on_losses", "exact.double() / size)", "exact.double())", lambda: test_weighted.test_thresholds_inside_torchjd_do_not_see_the_gradients_size(1e-3)),
    Mutant("add up instead of averaging", "solvers.weighted:Weighted.on_losses", "len(losses) if self.scaled", "1 if self.scaled", test_weighted.test_pcgrad_removes_the_conflicting_part_of_each_gradient),
    Mutant("the same draw every time", "solvers.weighted:Weighted._draw", " + self.calls", "", test_weighted.test_random_weights_leave_the_global_stream_alone_and_follow_seed_and_call),
    Mutant("raw gradients for ConFIG", "solvers.conflicts:conflict_free_weights", " * inverse[:, None] * inverse[None, :]", "", lambda: test_weighted.test_config_from_the_gramian_is_torchjds_from_the_gradients("normal")),
    Mutant("a third of the length", "solvers.conflicts:conflict_free_weights", "mean / length * coordinates", "mean * coordinates", lambda: test_weighted.test_config_from_the_gramian_is_torchjds_from_the_gradients("normal")),
    Mutant("the share that is done", "solvers.ideal_gap:Gap.values", "self.ideal - self.current", "self.current - self.start", test_loss_scalarizers.test_the_gap_is_the_share_of_the_way_that_is_left),
    Mutant("ignore what was learned", "solvers.loss_scalarizers:Scalarized.observe", "self.steps > 0", "False", test_loss_scalarizers.test_uw_learns_weights_inverse_to_the_losses),
    Mutant("the losses, not their slopes", "solvers.loss_scalarizers:Scalarized.observe", "slopes / total if", "losses.detach() / losses.detach().sum() if", test_loss_scalarizers.test_geometric_mean_weighs_by_the_inverse),
    # diagnostics and fronts
    Mutant("who binds least", "metrics.diagnostics:binding_share", "positive.amin(0)", "positive.amax(0)", binding),
    Mutant("count ties in full", "metrics.diagnostics:binding_share", "binds / binds.sum(0)", "binds", binding),
    Mutant("look at raw advantages", "metrics.diagnostics:binding_share", "advantages.clamp(min=0)", "advantages", binding),
    Mutant("clip regardless of sign", "metrics.diagnostics:clip_fraction", "(advantages < 0) & ", "", clipping),
    Mutant("count padding as clipped", "metrics.diagnostics:_token_mean", "torch.where(response_mask, values, 0)", "values", binding),
    Mutant("do not centre", "metrics.diagnostics:reward_signal_covariance", " - rewards.sum(1, keepdim=True) / count", "", test_diagnostics.test_covariance_is_numpys_over_responses_that_have_tokens),
    Mutant("square the residual", "metrics.diagnostics:stationarity_residual", ".sqrt()", "", test_diagnostics.test_stationarity_residual_is_the_norm_of_the_combined_gradient),
    Mutant("products, not cosines", "metrics.diagnostics:gradient_cosines", " * inverse[None, :]", "", test_diagnostics.test_cosines_are_those_of_the_gradients),
    Mutant("minimise", "metrics.fronts:hypervolume", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    Mutant("minimise the distance", "metrics.fronts:igd_plus", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    Mutant("minimise the lift", "metrics.fronts:epsilon", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
    # what connects them: a whole step
    Mutant("swap γ and λ", "rl.estimators:GAE.estimate", "self.gamma, self.lam", "self.lam, self.gamma", step_reward),
    Mutant("value targets from whitened advantages", "rl.estimators:GAE.estimate", "return advantages, returns", "return advantages, advantages + values * response_mask", step_reward),
    Mutant("charge the KL where it is in the loss", COLLECT, "self.update.kl_in_loss or", "not self.update.kl_in_loss or", step_loss),
    Mutant("reward the KL", COLLECT, "else self.kl.coefficient * kl", "else -self.kl.coefficient * kl", step_reward),
    Mutant("turn the reward's KL around", COLLECT, "kl_estimate(old_log_probs, reference,", "kl_estimate(reference, old_log_probs,", step_reward),
    Mutant("observe normalised rewards", COLLECT, "self.solver.observe(scores)", "self.solver.observe(rewards)", step_reward),
    Mutant("estimate from raw scores", COLLECT, "self.solver.on_rewards(rewards)", "self.solver.on_rewards(scores)", step_reward),
    Mutant("KL of a token as of a response", COLLECT, "kl.sum(-1).mean().item()", "masked_mean(kl, mask).item()", step_reward),
    Mutant("adapt the KL by the token", LEARN, 'self.metrics["kl/response"]', 'self.metrics["kl/token"]', step_reward),
    Mutant("adapt the KL by the mini-batch", LEARN, '"kl/response"], len(experience.rollout)', '"kl/response"], len(batch.rollout)', step_reward),
    Mutant("add up gradients of mini-batches", LEARN, "optimizer.zero_grad(set_to_none=True)", "pass", step_reward),
    Mutant("leave the heads' gradient unclipped", LEARN, "self._clip(trainable(self.policy.value_heads))", "torch.zeros(())", step_reward),
    Mutant("the heads at the model's rate", "training.optimizer:build_optimizer", '"lr": settings.value_learning_rate', '"lr": settings.learning_rate', step_reward),
    Mutant("the update at temperature 1", TERMS, "batch.rollout, settings.temperature", "batch.rollout", step_reward),
    Mutant("the sampling policy at temperature 1", "training.alignment:Alignment._old", "part, self.sampling.temperature", "part", step_reward),
    Mutant("the reference at temperature 1", "training.alignment:Alignment._reference_log_probs", ", part, self.sampling.temperature)", ", part)", step_reward),
    Mutant("punish entropy", TERMS, "rest - settings.entropy_coefficient", "rest + settings.entropy_coefficient", step_reward),
    Mutant("entropy per micro-batch", TERMS, "(output.entropy * mask).sum() / tokens", "(output.entropy * mask).sum() / mask.sum()", step_reward),
    Mutant("flee the reference", TERMS, "rest + kl_coefficient", "rest - kl_coefficient", step_loss),
    Mutant("turn the loss's KL around", TERMS, "output.log_probs, batch.reference_log_probs, settings", "batch.reference_log_probs, output.log_probs, settings", step_loss),
    Mutant("KL per micro-batch", TERMS, "(kl * mask).sum() / tokens", "(kl * mask).sum() / mask.sum()", step_loss),
    Mutant("KL against the sampling policy", TERMS, "batch.reference_log_probs", "batch.old_log_probs", step_loss),
    Mutant("average the value losses", TERMS, "settings.value_coefficient * value_losses.sum()", "settings.value_coefficient * value_losses.mean()", step_reward),
    Mutant("value losses per micro-batch", TERMS, "settings.value_clip, token_count=tokens", "settings.value_clip", step_reward),
    Mutant("surrogates per micro-batch", TERMS, "advantages, mask, settings.clip, token_count=tokens", "advantages, mask, settings.clip", step_reward),
    Mutant("clip values as the policy", TERMS, "settings.value_clip", "settings.clip", step_reward),
    Mutant("losses weighed alike", "training.update:MiniBatchLoss.backward", "weights @ part.surrogates", "part.surrogates.mean()", step_loss),
    Mutant("the run's order for the reference's", "comparison.reference:reference_of", "tuple(by_name[name] for name in names)", "run.programs", test_reference.test_the_true_front_is_in_the_order_that_is_asked_for),
    Mutant("the recorded order for the reference's", "comparison.reference:reference_of", "recorded[name][\"proxy\"] for name in names", "row[\"proxy\"] for row in recorded.values()", test_reference.test_a_calibration_is_in_the_order_that_is_asked_for),
    Mutant("prefer the rejected", "supervised.batch_losses:preference_loss", "chosen - rejected", "rejected - chosen", test_supervised.test_the_loss_of_pairs_is_bradley_and_terrys),
    Mutant("take the chosen for the rejected", "supervised.batch_losses:pair_scores", "rewards[: len(pairs)], rewards[len(pairs) :]", "rewards[len(pairs) :], rewards[: len(pairs)]", test_supervised.test_the_loss_of_pairs_is_bradley_and_terrys),
    Mutant("forget the power of the rates", "solvers.balancing:GradNorm.on_losses", " ** self.alpha", "", lambda: test_balancing.test_gradnorm_takes_a_gradient_step_on_its_own_objective(3.0)),
    Mutant("keep the dominated", "metrics.fronts:nondominated", "maximise=True", "maximise=False", test_fronts.test_one_objective_is_a_line),
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
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, defined[name])
    for other in [m for key, m in sys.modules.items() if key.startswith("pama_exp.")]:
        if not owners and vars(other).get(name) is original:  # who imported it by name has it too
            monkeypatch.setattr(other, name, defined[name])


@pytest.mark.slow("each mutant runs another test")
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.target} {mutant.what}")
def test_mutant_is_noticed(monkeypatch, mutant):
    mutate(monkeypatch, mutant)
    with pytest.raises(AssertionError):
        mutant.test()


def test_the_tests_named_here_pass_on_the_real_code():
    for test in {mutant.test for mutant in MUTANTS}:
        test()
