"""The faults that the tests must notice: one changed place of the code each, and the tests that fail with it.

Choose tests that are quick: every fault runs them once. A fault that no test can notice is listed with the reason.
"""

from mutant import Mutant


def of(file, tests, *changes):
    """Returns the mutants of a file.

    Args:
        file: Path below `keras_netvlad`, without the ending.
        tests: Path of the file of tests below `tests`, without the ending.
        *changes: `(source, replacement, names)`: names of tests, separated by spaces; and, if no test can notice the
            change, the reason as a fourth item.
    """
    return [
        Mutant(
            f"keras_netvlad/{file}.py",
            source,
            replacement,
            tuple(f"tests/{tests}.py::{name}" for name in names.split()),
            *equivalent,
        )
        for source, replacement, names, *equivalent in changes
    ]


FAULTS = "test_a_fault_fails_the_verification"
INPUTS = "test_every_signature_of_frames_sees_every_kind_of_video"
PADDING = "test_padding_is_allowed_only_where_it_cannot_change_an_answer"
TIES = "test_equal_scores_count_as_the_mean_over_their_orders"
ALL_ORDERS = "test_equal_scores_count_as_the_mean_over_all_their_orders"
SHARES = "test_every_cluster_gets_its_share_of_many_and_of_few_features"
HALVES = "test_netvlad_plus_plus_pools_both_halves_of_any_length"
HALF_OF_REAL_FRAMES = "test_the_middle_is_that_of_the_real_frames"
COSINE_KMEANS = "test_adapt_by_the_cosine_finds_directions_of_any_length"
PATCHES_IN_PLACE = "test_patches_become_a_map_in_their_place"
SMALLEST = "test_the_smallest_picture_has_a_position_and_smaller_ones_have_none"
ONLY_SMALLER = "test_only_smaller_pictures_and_only_floats_become_nan"
EACH_COUNT = "test_each_stream_has_its_own_number_of_frames"
MATLAB_LAYERS = "test_matlab_networks_of_other_layers_are_refused"
YOUTUBE_8M_SCORES = "test_checkpoints_of_youtube_8m_give_the_published_scores"
CARTWHEEL = "test_a_mobilenet_gives_the_descriptors_of_cartwheel"
NHGJEM = "test_a_sequential_with_a_backbone_gives_the_descriptors_of_nhgjem"
SPEAKER = "test_spectrograms_give_the_descriptors_of_the_speaker_recognition"
COMBINED = "test_a_live_stream_is_not_offered_if_frames_are_combined"

MUTANTS = [
    # The demo.
    *of(
        "demo",
        "test_command_line",
        ("if self._is_live:", "if True:", "test_the_demo_prints_one_line_for_a_training"),
        ("    import_kmeans()\n", "", "test_a_missing_extra_is_named_before_any_work"),
        ("        pooling.adapt(frames, mask=mask, seed=seed, verbose=0)\n", "", "test_the_demo_is_true"),
    ),
    # Pictures.
    *of(
        "layers/backbones",
        "layers/test_frame_encoder",
        ("grid = height // patch, width // patch", "grid = width // patch, height // patch", PATCHES_IN_PLACE),
        ("tokens[:, num_prefix_tokens:], shape", "tokens[:, :-num_prefix_tokens], shape", PATCHES_IN_PLACE),
        (
            'name.endswith(f"_{layer}")',
            "name.endswith(layer)",
            "test_an_intermediate_layer_is_the_output_and_the_layers_behind_it_are_dropped",
        ),
    ),
    *of(
        "models/picture_model",
        "models/test_picture_model",
        ("ALL_POSITIONS = 2**31 - 1", "ALL_POSITIONS = 36", "test_every_position_of_a_larger_picture_counts"),
        ("backbone(pictures, training", "backbone(args[0], training", "test_a_picture_is_a_video_of_one_frame"),
        ("given if value is images else value", "value", "test_a_model_of_pictures_gets_a_layout_and_a_size"),
        (
            "and layout != layer.layout:",
            "and False:",
            "test_bytes_of_a_converted_model_are_cast_before_they_are_transposed",
        ),
        ("if any(one not in (None, given)", "if False and any(one", "test_a_model_of_pictures_of_one_size_keeps_it"),
    ),
    *of(
        "export/onnx/graph_rules",
        "export/serving/test_tensorrt_operators",
        ("shape.input[0] = casts[shape.input[0]]", "pass", "test_tensorrt_takes_bytes_of_features"),
    ),
    *of(
        "export/serving/tensorrt_operators",
        "export/serving/test_tensorrt_operators",
        ("for subgraph in subgraphs(node):", "for subgraph in ():", "test_a_misfit_in_a_branch_is_named"),
    ),
    # Forms for GPUs.
    *of(
        "export/onnx/precision",
        "export/onnx/test_precision",
        (
            'add("Div", [of_low, "qdq/low_levels"])',
            "of_low",
            "test_int8_rows_of_any_size_are_rounded_alike",
        ),
        (
            'QDQ_ACTIVATION_LEVELS if precision == "int8-qdq" else ACTIVATION_LEVELS',
            "ACTIVATION_LEVELS",
            "test_long_sums_of_int8_stay_within_32_bits",
        ),
    ),
    *of(
        "export/serving/triton",
        "export/serving/test_triton",
        (
            "if obstacle is not None:",
            "if False:",
            "test_a_model_that_tensorrt_does_not_take_is_refused_in_one_sentence",
        ),
        (
            "        precision=precision,\n        max",
            "        max",
            "test_every_form_for_gpus_goes_to_tensorrt_in_its_mode",
        ),
    ),
    # The inputs of the verification.
    *of(
        "export/verification/accepted_sizes",
        "export/verification/test_verification_inputs",
        ("Size(3, 5, (5, 0, 2), (5, 3)),", "Size(3, 5, (5, 1, 2), (5, 3)),", INPUTS),
        ("Size(2, 9, (12, -1), (9, 2)),", "Size(2, 9, (9, -1), (9, 2)),", INPUTS),
        ("Size(2, 9, (12, -1), (9, 2)),", "Size(2, 9, (12, 1), (9, 2)),", INPUTS),
        ("    Size(1, 1, (1,), (1, 1)),\n", "", INPUTS),
        ("    Size(2, 40, (40, 17), (40, 8)),\n", "", INPUTS),
    ),
    *of(
        "export/verification/accepted_sizes",
        "export/verification/test_accepted_sizes",
        ("1) if count > 0 else count for", "1) for", "test_a_fixed_length_and_a_fixed_batch_are_kept"),
    ),
    *of(
        "export/verification/merged_requests",
        "export/verification/test_accepted_models",
        (
            "counts = {**request.expected, **request.inputs}",
            "counts = request.inputs",
            "test_padding_of_outputs_per_frame_is_not_compared_in_records",
        ),
    ),
    *of(
        "export/verification/model_outputs",
        "export/verification/test_accepted_models",
        ("*map(_without_nan, pair))", "*pair)", "test_the_cause_is_named_if_it_is_the_model"),
    ),
    # Other runtimes.
    *of(
        "export/verification/artifact_in_runtime",
        "export/verification/test_runtimes",
        ('if self.kind != "onnx":', "if False:", "test_of_a_saved_model_another_runtime_runs_the_default"),
        ('f"{PAST}{name}" if name', "name if name", "test_sums_of_a_live_stream_get_the_names_of_the_file"),
        ("not set(output_names) <= set(outputs)", "False", "test_wrong_runtimes_are_one_sentence"),
    ),
    *of(
        "export/verification/unequal_rows",
        "export/verification/test_runtimes",
        ("    return True\n", "    return False\n", "test_a_removed_check_of_rows_is_reported_but_no_failure"),
        ("counts[:1]", "counts", "test_a_function_is_a_runtime"),
    ),
    # LiteRT files.
    *of(
        "export/litert/conversion",
        "export/litert/test_litert_export",
        ("[rows, *known[1:]])", "known)", "test_inputs_of_different_numbers_of_rows_fail"),
        ("keras_endpoint=False", "keras_endpoint=True", "test_one_file_holds_every_signature_and_equals_the_model"),
        ("node.input[0] = f", "f", "test_a_frame_of_zeros_has_a_descriptor"),
    ),
    *of(
        "export/verification/verification_inputs",
        "export/litert/test_litert_export",
        ("inputs[port.name][:1, :1] = 0", "pass", "test_the_verification_notices_nan_for_a_frame_of_zeros"),
    ),
    *of(
        "export/verification/model_outputs",
        "export/verification/test_verification_inputs",
        (
            "_is_nan(_real(port, outputs, case)).any() for",
            "False for",
            "test_a_model_that_computes_nan_for_zeros_is_verified_without_them",
        ),
    ),
    *of(
        "export/verification/float64_copy",
        "export/verification/test_float64_copy",
        ("if len(arguments) > 1:", "if False:", "test_every_pooling_has_a_float64_copy"),
    ),
    *of(
        "export/model_signature",
        "export/test_model_signature",
        (" or port.shape[1] in lengths)", ")", "test_inputs_of_fixed_sizes_that_num_frames_counts"),
        ("or not lengths or", "or", "test_inputs_of_fixed_sizes_that_num_frames_counts"),
    ),
    *of(
        "base/video_decoding",
        "data/test_video",
        ("HD_LINES = 720", "HD_LINES = 721", "test_the_color_matrix_is_that_of_the_file_or_of_its_size"),
        ("frame.colorspace == UNSPECIFIED and", "", "test_the_color_matrix_is_that_of_the_file_or_of_its_size"),
    ),
    *of(
        "export/litert/float32_model",
        "export/litert/test_litert_export",
        ("if in_float64:", "if False:", "test_float64_is_refused"),
        ('dtype in ("bfloat16", "float16")', "False", "test_layers_of_16_bits_are_written_in_float32"),
    ),
    *of(
        "export/litert/int8_kernels",
        "export/litert/test_int8_kernels",
        ("ALIGNMENT = 16", "ALIGNMENT = 1", "test_weights_lie_at_multiples_of_16_bytes"),
        ("np.ascontiguousarray(levels.T)", "levels", "test_levels_are_the_nearest_multiples_of_the_scale_of_each_unit"),
        ("for kernel in [*missing, ", "for kernel in [", "test_what_cannot_be_quantized_is_one_sentence"),
        ("latest.ljust", "versions[0].ljust", "test_a_quarter_of_the_size_and_the_kernel_only"),
    ),
    *of(
        "export/litert/litert_file",
        "export/litert/test_litert_export",
        ("if content[4:8] != IDENTIFIER:", "if False:", "test_damaged_files_are_named"),
        ("name != SERVING_DEFAULT, name", "name", "test_a_file_is_described"),
    ),
    *of(
        "export/onnx/canonical_graph",
        "export/onnx/test_canonical_graph",
        ("*node.input, *attributes, len", "*node.input, len", "test_of_equal_nodes_the_first_stays"),
        (" and node.op_type not in RANDOM", "", "test_of_equal_nodes_the_first_stays"),
        (
            "rename_reads(node, names)\n        for subgraph in",
            "for subgraph in",
            "test_of_equal_nodes_the_first_stays",
        ),
    ),
    *of(
        "export/onnx/conversion",
        "export/onnx/test_canonical_graph",
        (
            ' if name != "merge_duplication"}',
            "}",
            "test_recurrent_layers_export_to_the_same_bytes_each_time",
        ),
    ),
    *of(
        "export/layer_comparison",
        "export/test_layer_comparison",
        (
            "for channels_first in (False, True)",
            "for channels_first in (False,)",
            "test_layers_of_inner_models_are_found_and_faults_named_there",
        ),
        (
            "if call.number > 0}",
            "if call.number > 1}",
            "test_every_layer_of_the_users_own_model_is_found",
        ),
        (
            "make_cases(signatures, arrays)",
            "make_cases(signatures)",
            "test_data_of_the_user_is_compared_as_well",
        ),
        (
            "yield all(comparison",
            "yield any(comparison",
            "test_data_of_the_user_is_compared_as_well",
        ),
        (
            "is_nan = np.isnan(expected) & np.isnan(received)",
            "is_nan = np.isnan(received)",
            "test_nan_in_the_file_differs_whatever_the_tolerance",
        ),
        (
            "is_nan = np.isnan(expected) & np.isnan(received)",
            "is_nan = np.zeros(expected.shape, bool)",
            "test_nan_that_a_later_layer_masks_is_equal_in_both",
        ),
        (
            "all(is_within for is_within, _ in results)",
            "any(is_within for is_within, _ in results)",
            "test_a_fault_in_one_of_two_outputs_of_a_layer_is_seen",
        ),
        (
            "    if name != SERVING_DEFAULT:",
            "    if False:",
            "test_wrong_uses_are_one_sentence",
        ),
    ),
    *of(
        "export/onnx/layer_tensors",
        "export/test_layer_comparison",
        (
            "if layer in self._repeated or name in self._view.outputs:",
            "if name in self._view.outputs:",
            "test_every_layer_of_the_users_own_model_is_found",
        ),
        (
            "if layer in self._repeated or name in self._view.outputs:",
            "if layer in self._repeated:",
            "test_every_layer_of_the_users_own_model_is_found",
        ),
        (
            "options.add_session_config_entry(WEIGHTS_FOLDER",
            "(WEIGHTS_FOLDER",
            "test_weights_in_a_second_file_are_read",
        ),
        (
            "for depth in range(1, len(layer) + 1)",
            "for depth in range(1, len(layer))",
            "test_every_layer_of_the_users_own_model_is_found",
        ),
    ),
    *of(
        "export/verification/layer_outputs",
        "export/test_layer_comparison",
        (
            " or isinstance(layer, keras.Model))",
            ")",
            "test_layers_of_inner_models_are_found_and_faults_named_there",
        ),
        (
            "(*(other.name for other in around[1:]), layer.name)",
            "(layer.name,)",
            "test_layers_of_inner_models_are_found_and_faults_named_there",
        ),
        (
            "            keras.Layer.__call__ = original",
            "            pass",
            "test_the_comparison_changes_neither_the_model_nor_the_file",
        ),
    ),
    *of(
        "export/verification/random_inputs",
        "export/verification/test_verification_inputs",
        (
            'LEVELS if port.dtype == "uint8" else 2',
            "2",
            "test_quantized_requests_are_compared_with_the_model_on_floats",
        ),
    ),
    *of(
        "export/verification/verification_inputs",
        "export/verification/test_verification_inputs",
        (
            '("zeros", "first element", "NaN")',
            '("zeros", "first element")',
            "test_cases_pad_with_zeros_the_first_element_and_nan",
        ),
        (
            '("zeros", "first element", "NaN")',
            '("zeros", "NaN")',
            "test_cases_pad_with_zeros_the_first_element_and_nan",
        ),
        (
            '"first element": values.flat[0]',
            '"first element": 0',
            "test_cases_pad_with_zeros_the_first_element_and_nan",
        ),
        (
            "_as_floats(clean, default) if name == SERVE_QUANTIZED else clean",
            "clean",
            "test_quantized_requests_are_compared_with_the_model_on_floats",
        ),
        (
            "known={NUM_FRAMES: np.array(lengths)},",
            "",
            "test_records_are_compared_with_the_model_on_their_floats_and_their_numbers_of_frames",
        ),
        (
            "np.abs(draw(generator, port, size))",
            "0 * draw(generator, port, size)",
            "test_live_streams_go_on_from_sums_and_are_compared_with_whole_videos",
        ),
        (
            'return Case(name, whole.name, {"none": sums}, SERVING_DEFAULT, whole.reference_inputs)',
            'return Case(name, whole.name, {"none": sums}, DESCRIBE, sums)',
            "test_live_streams_go_on_from_sums_and_are_compared_with_whole_videos",
        ),
        (
            "range(0, num_rows, batch)",
            "range(0, num_rows, 2 * batch)",
            "test_every_row_of_real_data_is_run_once",
        ),
        ("start : start + batch]", "start : start + batch - 1]", "test_every_row_of_real_data_is_run_once"),
    ),
    *of(
        "export/verification/accepted_sizes",
        "export/verification/test_faulty_artifacts",
        ("Size(2, 9, (12, -1), (9, 2)),", "Size(2, 9, (9, 1), (9, 2)),", FAULTS),
    ),
    *of(
        "export/verification/verification_inputs",
        "export/verification/test_faulty_artifacts",
        ('("zeros", "first element", "NaN")', '("zeros",)', FAULTS),
        ("known={NUM_FRAMES: np.array(lengths)},", "", FAULTS),
        (
            "    for size in sizes:\n        for name in names:",
            "    for size in sizes:\n        for name in [SERVING_DEFAULT]:",
            FAULTS,
        ),
    ),
    *of(
        "export/verification/verify",
        "export/verification/test_faulty_artifacts",
        ("for name, values in expected.items():", "for name, values in list(expected.items())[:1]:", FAULTS),
        ("for padding, inputs in case.runs.items():", "for padding, inputs in list(case.runs.items())[:1]:", FAULTS),
        (
            "np.asarray(received[name]), *([exact[name]] if name in exact else [])]",
            "np.asarray(received[name])]",
            "test_the_float64_copy_sees_errors_that_add_up",
        ),
    ),
    *of(
        "export/verification/model_outputs",
        "export/verification/test_faulty_artifacts",
        ("return {**outputs, **case.known}", "return outputs", FAULTS),
    ),
    # ONNX files of one signature.
    *of(
        "export/verification/verify",
        "export/onnx/test_onnx_signatures",
        (
            "artifact.run(inputs, name) if name in declared else outputs.run(inputs, name)",
            "outputs.run(inputs, name)",
            "test_a_file_with_another_weight_fails_its_verification",
        ),
        (
            "answers = [outputs.run(sums, DESCRIBE) for sums in answers]",
            "continue",
            "test_real_data_is_compared_through_every_signature",
        ),
    ),
    *of(
        "export/verification/artefact",
        "export/onnx/test_onnx_signatures",
        (
            'metadata.get("signature", "serving_default")',
            '"serving_default"',
            "test_a_file_is_verified_by_the_name_that_it_stores",
        ),
    ),
    *of(
        "export/onnx/file_metadata",
        "export/onnx/test_onnx_signatures",
        (
            "for key in (SIGNATURE, WEIGHTS_DIGEST):",
            "for key in (WEIGHTS_DIGEST,):",
            "test_metadata_of_the_user_do_not_change_the_name_of_the_signature",
        ),
    ),
    *of(
        "export/onnx/row_check",
        "export/onnx/test_onnx_signatures",
        (
            "is_live or len(port.shape) == 1",
            "len(port.shape) == 1",
            "test_inputs_of_different_numbers_of_rows_are_refused",
        ),
    ),
    *of(
        "export/model_export",
        "export/onnx/test_onnx_signatures",
        (
            '"float32" if name == ACCUMULATE else precision',
            "precision",
            "test_describe_holds_kernels_of_reduced_precision",
        ),
    ),
    # Videos in chunks, and requests that a server merges.
    *of(
        "export/verification/verify",
        "export/verification/test_chunked_videos",
        (
            "    comparisons += compare_chunks(run, signatures, outputs.exact_signatures, name=live)\n",
            "",
            "test_the_report_lists_every_cut",
        ),
    ),
    *of(
        "export/verification/chunked_videos",
        "export/verification/test_chunked_videos",
        ("NUM_REAL = (11, 5, 0)", "NUM_REAL = (11, 11, 11)", "test_the_report_lists_every_cut"),
        (
            '"frame by frame": (1,) * 11,',
            '"frame by frame": (11,),',
            "test_a_live_stream_that_is_wrong_in_chunks_differs",
        ),
        (" if length else slice(-1, None)", "", "test_every_frame_of_a_video_is_in_one_chunk"),
        (
            "np.clip(np.array(num_frames) - start, 0, length)",
            "np.clip(np.array(num_frames) - start, 0, max(length, 1))",
            "test_every_frame_of_a_video_is_in_one_chunk",
        ),
        (
            "np.clip(np.array(num_frames) - start, 0, length)",
            "np.minimum(np.array(num_frames) - start, length)",
            "test_every_frame_of_a_video_is_in_one_chunk",
        ),
    ),
    *of(
        "export/verification/merged_requests",
        "export/verification/test_merged_requests",
        ("tensor.flat[0], tensor.dtype)", "0, tensor.dtype)", "test_requests_are_merged_as_the_server_merges_them"),
        (
            "setdefault(() if pads else shapes, [])",
            "setdefault(shapes, [])",
            "test_requests_of_different_lengths_are_merged_only_if_the_server_pads",
        ),
        (
            "[padded[-1][:1]] * num_repeated",
            "[padded[-1][:0]] * num_repeated",
            "test_requests_are_merged_as_the_server_merges_them",
        ),
    ),
    *of(
        "export/serving_signatures",
        "export/verification/test_faulty_artifacts",
        (
            'Port(NUM_FRAMES, (None,), "int32", has_frames=False)',
            'Port(NUM_FRAMES, (None,), "int32")',
            "test_an_artifact_without_a_fault_passes",
            "a vector with one number for each video has no second axis",
        ),
    ),
    *of(
        "export/padding",
        "export/verification/test_merged_requests",
        ("        has_count\n", "        True\n", PADDING),
        (
            "all(None not in port.shape[1:2] or len(port.shape) >= 3 for port in signature.inputs)",
            "True",
            PADDING,
        ),
        ("all(None not in port.shape[2:] for port in signature.inputs)", "True", PADDING),
        ("all(None not in port.shape[1:] for port in signature.outputs)", "True", PADDING),
    ),
    *of(
        "export/frame_by_frame",
        "export/test_frame_by_frame",
        ('_names("Activation ContextGating', '_names("Activation GRU ContextGating', COMBINED),
        ("ActivityRegularization AlphaDropout", "ActivityRegularization Attention AlphaDropout", COMBINED),
        ("axis % rank >= 2 for axis in axes", "axis % rank >= 1 for axis in axes", COMBINED),
        ("operation.kernel_size == operation.strides == (1,)", "operation.strides == (1,)", COMBINED),
        ("if not mask_flow.excludes_padding or len(mask.shape) != 2:", "if len(mask.shape) != 2:", COMBINED),
        ("return type(operation).__name__ if is_known else None", "return type(operation).__name__", COMBINED),
    ),
    *of(
        "export/verification/verify",
        "export/verification/test_signature_check",
        (
            "    check_signatures(declared, artifact.signatures)\n",
            "",
            "test_an_artefact_of_fixed_lengths_is_refused_before_it_runs",
        ),
    ),
    *of(
        "export/verification/signature_check",
        "export/verification/test_signature_check",
        ("if dtype != port.dtype or shape", "if shape", "test_another_dtype_or_axis_is_refused"),
        ("or shape not in (port.shape, names)", "", "test_another_dtype_or_axis_is_refused"),
        ("shape not in (port.shape, names)", "len(shape) != len(port.shape)", "test_another_dtype_or_axis_is_refused"),
        (
            "shape not in (port.shape, names)",
            "shape != port.shape",
            "test_both_formats_of_the_models_own_signature_pass",
        ),
        (
            "if set(expected) != set(received):",
            "if not set(expected) <= set(received):",
            "test_other_names_are_refused",
        ),
        (
            "if set(expected) != set(received):",
            "if not set(expected) >= set(received):",
            "test_other_names_are_refused",
        ),
        ('("output", signature.outputs, outputs)', '("output", (), {})', "test_another_dtype_or_axis_is_refused"),
    ),
    *of(
        "export/verification/report",
        "export/verification/test_report",
        ("return float(np.max(list(values)))", "return max(values)", "test_nan_is_the_worst_value_wherever_it_comes"),
        (
            "return float(np.max(list(values)))",
            "return float(np.nanmax(list(values)))",
            "test_nan_is_the_worst_value_wherever_it_comes",
        ),
        ("return float(np.max(list(values)))", "return list(values)[-1]", "test_the_worst_of_several_runs_is_reported"),
        (
            "return value if value is not None and np.isfinite(value) else None",
            "return value",
            "test_nan_is_the_worst_value_wherever_it_comes",
        ),
        ("return bool(self.comparisons) and agrees", "return agrees", "test_a_report_without_comparisons_is_not_ok"),
        (
            "self.agreement.fraction >= self.min_agreement",
            "self.agreement.fraction > self.min_agreement",
            "test_exactly_the_wanted_share_of_rows_agrees",
        ),
        (
            "self.agreement is not None and self",
            "self.agreement is None or self",
            "test_exactly_the_wanted_share_of_rows_agrees",
        ),
        (
            "all(c.is_within(self.tolerance) for c in self.comparisons)",
            "any(c.is_within(self.tolerance) for c in self.comparisons)",
            "test_nan_is_the_worst_value_wherever_it_comes",
        ),
    ),
    *of(
        "export/verification/comparison",
        "export/verification/test_report",
        (
            "self.relative <= tolerance or",
            "self.relative < tolerance or",
            "test_a_difference_of_exactly_the_tolerance_is_within",
        ),
        (
            "self.to_float64 <= tolerance)",
            "self.to_float64 < tolerance)",
            "test_a_difference_of_exactly_the_tolerance_is_within",
        ),
        (
            "self.absolute <= ABSOLUTE_FLOOR",
            "self.absolute < ABSOLUTE_FLOOR",
            "test_a_difference_of_exactly_the_tolerance_is_within",
        ),
        (
            "self.absolute <= ABSOLUTE_FLOOR",
            "self.absolute <= 2 * ABSOLUTE_FLOOR",
            "test_a_difference_of_exactly_the_tolerance_is_within",
        ),
        (
            "self.is_near_model(tolerance) and (self.to_float64 is None or",
            "self.is_near_model(tolerance) or (self.to_float64 is None or",
            "test_nan_from_float64_fails_a_comparison",
        ),
        (
            '    if expected.shape != received.shape:\n        return float("inf"), float("inf")\n',
            "",
            "test_a_comparison_is_strict",
        ),
        (
            "np.max(np.where(is_equal, 0.0, np.abs(expected - received)), initial=0.0)",
            "np.nanmax(np.where(is_equal, 0.0, np.abs(expected - received)), initial=0.0)",
            "test_a_comparison_is_strict",
        ),
    ),
    # Durability.
    *of(
        "base/atomic_files",
        "base/test_atomic_files",
        (
            "        os.fsync(descriptor)\n",
            "        pass\n",
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        (
            '            for path in stage.rglob("*"):\n                flush(path)\n',
            "",
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        (
            'stage.rglob("*")',
            'stage.glob("*")',
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        (
            "            flush(target.parent)\n",
            "",
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        ("            flush(part)\n", "", "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it"),
        (
            "            flush(target.absolute().parent)\n",
            "",
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        (
            "            flush(part)\n            os.replace(part, target)\n",
            "            os.replace(part, target)\n            flush(target)\n",
            "test_every_file_reaches_the_disk_before_the_rename_and_the_rename_after_it",
        ),
        (
            ', suffix=".partial", dir=target.parent)',
            ', suffix=".partial")',
            "test_a_stage_lies_on_the_file_system_of_its_target_and_is_hidden",
        ),
        (
            "key=lambda path: (path.name == target.name, path.name)",
            "key=lambda path: (path.name != target.name, path.name)",
            "test_a_file_and_its_companions_are_flushed_before_the_first_rename_and_the_target_comes_last",
        ),
        (
            "        shutil.rmtree(stage, ignore_errors=True)\n",
            "        pass\n",
            "test_nothing_is_left_of_a_stage_whose_block_raises",
        ),
        (
            "os.lstat(target)",
            "os.stat(target)",
            "test_a_target_that_exists_is_refused_before_the_block_runs",
        ),
        (
            "                _check_new(target)\n",
            "",
            "test_a_target_that_another_process_finished_first_is_kept",
        ),
        (
            "with directory_lock(target.parent):",
            "with contextlib.nullcontext():",
            "test_a_target_appears_only_while_its_directory_is_locked",
        ),
        ("        flush(target)\n", "", "test_a_copy_is_flushed_and_names_a_full_disk"),
    ),
    *of(
        "base/locks",
        "base/test_locks",
        ("fcntl.flock(descriptor, fcntl.LOCK_EX)", "pass", "test_a_locked_directory_is_waited_for"),
    ),
    *of(
        "base/full_disk_error",
        "base/test_atomic_files",
        (
            "(errno.ENOSPC, errno.EDQUOT, errno.EFBIG)",
            "(errno.ENOSPC, errno.EFBIG)",
            "test_a_full_disk_leaves_nothing_and_is_one_sentence",
        ),
        (
            "return number if number in FULL else _code_in(str(error))",
            "return number if number in FULL else None",
            "test_a_full_disk_leaves_nothing_and_is_one_sentence",
        ),
        ("named if is_elsewhere else written", "written", "test_a_full_disk_elsewhere_keeps_its_path"),
    ),
    # Videos.
    *of(
        "base/video_decoding",
        "data/test_video",
        ("turn[0] % 2 else (height, width)", "False else (height, width)", "test_a_rotated_video_is_cropped_upright"),
        (
            "height, width = scaled[::-1] if turn[0] % 2 else scaled",
            "height, width = scaled",
            "test_a_rotated_video_is_cropped_upright test_rotation_is_applied",
        ),
        (
            "scale = max(size[0] / upright[0], size[1] / upright[1])",
            "scale = min(size[0] / upright[0], size[1] / upright[1])",
            "test_sizes",
        ),
        ("(image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2", "0, 0", "test_sizes"),
        ("/ (math.pi / 2)) % 4, is_mirrored", "/ (math.pi / 2)) % 2, is_mirrored", "test_rotation_is_applied"),
        ("round(-math.atan2(b, a)", "round(math.atan2(b, a)", "test_rotation_is_applied"),
        ("        image = image[:, ::-1]\n", "        image = image[::-1]\n", "test_mirroring_is_applied"),
        ("limit_denominator(1001 * 1000)", "limit_denominator(10)", "test_a_frame_rate_is_the_fraction_that_was_meant"),
        (
            "Fraction(fps).limit_denominator(1001 * 1000)",
            "Fraction(fps)",
            "test_a_frame_rate_is_the_fraction_that_was_meant",
        ),
        (
            "end - start) * fps:",
            "end - start) * fps and number == 0:",
            "test_the_last_frame_stays_for_its_own_duration",
        ),
        (
            "if frame.duration else 1 / Fraction(rate)",
            "if False else 1 / Fraction(rate)",
            "test_the_last_frame_stays_for_its_own_duration",
        ),
        (
            "place.end if frame.pts is None else",
            "Fraction(0) if frame.pts is None else",
            "test_frames_without_time_stamps_are_evenly_spaced",
        ),
        (
            "place.end if frame.pts is None else",
            "place.time or Fraction(0) if frame.pts is None else",
            "test_frames_without_time_stamps_are_evenly_spaced",
        ),
        (
            "else max(time, place.time)), duration",
            "else time), duration",
            "test_time_stamps_that_jump_back_keep_the_order_of_the_frames",
        ),
        (
            '            if packet.is_corrupt:\n                raise place.error("a damaged packet")\n',
            "",
            "test_a_packet_that_the_demuxer_calls_damaged_is_refused",
        ),
        (" if not s.disposition & av.stream.Disposition.attached_pic]", "]", "test_a_cover_picture_is_no_video"),
        (
            "announced - max(2 * duration, Fraction(1, 5))",
            "announced - max(2 * duration, Fraction(1, 1))",
            "test_a_track_that_ends_early_is_refused",
        ),
        ("announced - max(2 * duration, Fraction(1, 5))", "announced", "test_a_track_that_ends_early_is_refused"),
        ('if stream.duration and "mov" in formats:', "if False:", "test_a_track_that_ends_early_is_refused"),
        (
            "last_packet_end < announced - DURATION_SLACK",
            "last_packet_end < announced - 100",
            "test_truncated_files_are_refused_after_what_is_whole",
        ),
        ("DURATION_SLACK = 1.0", "DURATION_SLACK = -1.0", "test_frames_are_those_on_screen_at_each_multiple"),
        (
            "shown, start, duration = next(frames)\n",
            "shown, start, duration = next(frames)\n    start = Fraction(0)\n",
            "test_time_begins_with_the_first_frame",
        ),
        (
            "while number < (time - start) * fps:",
            "while number <= (time - start) * fps:",
            "test_frames_are_those_on_screen_at_each_multiple",
        ),
        (
            'if int(av.__version__.split(".")[0]) < 19 else {}',
            "if False else {}",
            "test_a_title_in_another_encoding_is_no_reason_to_refuse",
        ),
        (
            '{"err_detect": "explode"}',
            "{}",
            "",
            "the frames that FFmpeg makes up are marked, and `is_corrupt` refuses them: 24 damaged files of 4 codecs",
        ),
        (
            '                if frame.is_corrupt:\n                    raise place.error("a damaged frame")\n',
            "",
            "",
            "with `err_detect`, FFmpeg raises instead of marking a frame: 24 damaged files of 4 codecs",
        ),
        ("if set(formats) & set(FOREIGN_FORMATS):", "if False:", "test_files_without_video_are_refused"),
        (
            "            if packet.stream is not stream:\n                continue\n",
            "",
            "test_the_sound_of_a_video_is_passed_over",
        ),
    ),
    # Records.
    *of(
        "data/youtube8m_writer",
        "data/test_youtube8m",
        ("not np.isfinite(values).all()", "np.isnan(values).any()", "test_the_writer_writes_all_or_nothing"),
        ("np.abs(values).max() > np.finfo", "values.max() > np.finfo", "test_what_float16_can_not_hold_is_refused"),
        (
            "np.abs(values).max() > np.finfo",
            "np.abs(values).max() >= np.finfo",
            "test_what_float16_can_not_hold_is_refused",
        ),
        ("or labels.min() < 0", "", "test_the_writer_writes_all_or_nothing"),
        ("if sizes != expected:", "if set(sizes) != set(expected):", "test_the_writer_writes_all_or_nothing"),
        ("or not values.size or", "or", "test_the_writer_writes_all_or_nothing"),
        ("len({len(values) for values in streams.values()}) > 1", "False", "test_the_writer_writes_all_or_nothing"),
    ),
    *of(
        "data/record_schemas",
        "data/test_youtube8m",
        (
            "if len(frame.bytes_list.value) != 1:",
            "if len(frame.bytes_list.value) < 1:",
            "test_a_bad_record_is_named_or_skipped",
        ),
        ("if not 0 <= label < num_classes]", "if not label < num_classes]", "test_a_bad_record_is_named_or_skipped"),
        (
            "if not 0 <= label < num_classes]",
            "if not 0 <= label <= num_classes]",
            "test_a_bad_record_is_named_or_skipped",
        ),
        (
            "(values >= 0) & (values < num_classes)",
            "values < num_classes",
            "",
            "on processors, where the records are parsed, `scatter_nd` refuses negative places itself",
        ),
        (
            "if len(features[name].float_list.value) != size:",
            "if len(features[name].float_list.value) > size:",
            "test_a_bad_record_at_video_level_is_named_or_skipped",
        ),
        (
            "if name not in features:\n                return",
            "if False:\n                return",
            "test_a_bad_record_at_video_level_is_named_or_skipped",
        ),
        ("tf.minimum(counts, 1.0)", "counts", "test_a_label_that_comes_twice_counts_once"),
        ("is_good &= tf.reduce_all(lengths[name] == shared)", "pass", "test_a_bad_record_is_named_or_skipped"),
        (
            "is_good &= tf.reduce_all(tf.strings.length(frames[name]) == tf.where(is_real, num_bytes, 0))",
            "pass",
            "test_a_bad_record_is_named_or_skipped",
        ),
        ("else tf.reduce_all(shared > 0)", "else True", "test_a_bad_record_is_named_or_skipped"),
        (
            'if self.frame_counts == "shared" and len(set(lengths.values())) > 1:',
            "if False:",
            "test_a_bad_record_is_named_or_skipped",
        ),
        (
            'features["labels"].WhichOneof("kind") not in (None, "int64_list")',
            "False",
            "test_a_bad_record_is_named_or_skipped",
        ),
        (
            'len(features[name].bytes_list.value) != 1:\n            return f"`{name}` is not',
            'False:\n            return f"`{name}` is not',
            "test_a_bad_record_is_named_or_skipped",
        ),
        (
            "tf.minimum(lengths[name], self.max_frames)",
            "lengths[name]",
            "test_every_video_comes_once_as_it_was_written",
        ),
        (
            'tf.where(context[ID_NAMES[0]] == "", context[ID_NAMES[1]], context[ID_NAMES[0]])',
            "context[ID_NAMES[0]]",
            "test_test_partition_without_labels_and_older_ids",
        ),
    ),
    *of(
        "data/record_schemas",
        "data/test_youtube8m_kinds",
        ("for name in self.sizes}\n        first", "for name in lengths}\n        first", EACH_COUNT),
        ("else tf.maximum(longest, 1)", "else longest", "test_an_absent_stream_has_no_frames"),
        ("BYTE_OF_ZERO = 127", "BYTE_OF_ZERO = 0", "test_the_first_stream_sets_the_length_as_in_googles_reader"),
    ),
    *of(
        "data/segment_schema",
        "data/test_youtube8m_kinds",
        ("UNRATED = -1.0", "UNRATED = 0.0", "test_segments_are_those_of_googles_reader"),
        ("tf.gather(length, rows) - starts", "tf.gather(length, rows)", "test_a_segment_ends_with_its_video"),
        ("counts[0] == counts[1],", "", "test_a_bad_record_of_segments_is_named_or_skipped"),
    ),
    *of(
        "data/record_files",
        "data/test_youtube8m",
        (
            "[m for m in glob.glob(pattern) if os.path.isfile(m)]",
            "glob.glob(pattern)",
            "test_folders_that_match_a_pattern_are_passed_over",
        ),
        (
            "return sorted(found)",
            "return sorted(found, reverse=True)",
            "test_a_shard_takes_every_second_file_of_those_sorted",
        ),
        ("if checksum != _masked_crc(header[:8]):", "if False:", "test_damaged_and_cut_off_files"),
        ("+ length + FOOTER_BYTES > end:", "+ length > end:", "test_damaged_and_cut_off_files"),
        ("+ length + FOOTER_BYTES > end:", "+ length + FOOTER_BYTES >= end:", "test_damaged_and_cut_off_files"),
        ("if len(header) < HEADER.size:", "if not header:", "test_damaged_and_cut_off_files"),
    ),
    *of(
        "data/youtube8m",
        "data/test_youtube8m",
        (
            "paths[part::count]",
            "paths[part * (len(paths) // count) :][: len(paths) // count]",
            "test_a_shard_takes_every_second_file_of_those_sorted",
        ),
        (
            "return self.paths[self.files[row]], int(self.numbers[row])",
            "return self.paths[self.files[row]], int(row)",
            "test_a_bad_record_among_several_files_is_named_by_its_own",
        ),
        (
            "return self.paths[self.files[row]], int(self.numbers[row])",
            "return self.paths[0], int(self.numbers[row])",
            "test_a_bad_record_among_several_files_is_named_by_its_own",
        ),
        (
            "least = min(len(records.offsets) for records in shards)",
            "least = len(shards[index].offsets)",
            "test_shards_take_different_files_and_the_same_number_of_batches",
        ),
        ("default_rng([seed, epoch])", "default_rng([seed])", "test_epochs_differ_and_any_point_can_be_gone_on_from"),
        ("default_rng([seed, epoch])", "default_rng([epoch])", "test_epochs_differ_and_any_point_can_be_gone_on_from"),
        (
            "first = start_epoch * num_steps + start_step",
            "first = start_epoch * num_steps",
            "test_epochs_differ_and_any_point_can_be_gone_on_from",
        ),
        ("if start_step >= num_steps or", "if start_step > num_steps or", "test_wrong_arguments"),
        (
            'np.iinfo("int64").max if epochs is None else',
            "10**9 if epochs is None else",
            "test_cardinality_and_shapes_are_known_beforehand",
        ),
        (
            "least // batch_size if drop_remainder else -(-least // batch_size)",
            "-(-least // batch_size)",
            "test_cardinality_and_shapes_are_known_beforehand",
        ),
        ("if index >= count:", "if index > count:", "test_wrong_arguments"),
        (
            'raise ValueError(f"{path}, record {number}: {faults[rows[0]]}; no other',
            'return rows[:0]\n        raise ValueError(f"{path}, record {number}: {faults[rows[0]]}; no other',
            "test_a_bad_record_is_named_or_skipped",
        ),
    ),
    # Layers, whatever the policy.
    *of(
        "layers/pca_whitening",
        "layers/test_pca_whitening",
        (
            "super().__init__(autocast=False, **kwargs)",
            "super().__init__(**kwargs)",
            "test_a_mixed_policy_rounds_only_the_result",
        ),
        (
            "ops.cast(inputs, self._wide_dtype) - self.mean",
            "ops.cast(ops.cast(inputs, self.compute_dtype), self._wide_dtype) - self.mean",
            "test_a_mixed_policy_rounds_only_the_result",
        ),
        (
            'return "float64" if self.compute_dtype == "float64" else "float32"',
            'return "float32"',
            "test_float64_is_computed_in_float64",
        ),
        ("/ (num_samples - 1)", "/ num_samples", "test_components_are_uncorrelated_of_variance_one_and_largest_first"),
        (
            "np.where(largest < 0, -1.0, 1.0)",
            "1.0",
            "test_components_are_uncorrelated_of_variance_one_and_largest_first",
        ),
        (
            "if size <= num_samples:",
            "if True:",
            "",
            "both decompositions agree where there are as many directions as components; the other one only saves time",
        ),
    ),
    *of(
        "layers/mixture_of_experts",
        "layers/test_mixture_of_experts",
        (
            'ops.cast(logits, "float64" if self.compute_dtype == "float64" else "float32")',
            'ops.cast(logits, "float32")',
            "test_float64_is_computed_in_float64",
        ),
        (
            'ops.cast(logits, "float64" if self.compute_dtype == "float64" else "float32")',
            "logits",
            "test_the_contract_of_layers",
        ),
        ("        self.supports_masking = True\n", "", "test_a_mask_is_passed_on"),
        ("gates[..., : self.num_mixtures]", "gates[..., 1:]", "test_every_option_matches_the_oracle"),
    ),
    *of(
        "layers/context_gating",
        "layers/test_context_gating",
        ("        self.supports_masking = True\n", "", "test_a_mask_is_passed_on"),
        (
            "ops.where(ops.expand_dims(mask, -1), inputs, ops.zeros_like(inputs))",
            "inputs * ops.cast(ops.expand_dims(mask, -1), inputs.dtype)",
            "test_gradients_are_finite_where_padding_is_not",
        ),
        (
            "return self.normalization(logits, training=training, mask=mask)",
            "return self.normalization(logits, training=training)",
            "test_frames_are_gated_each_and_padding_stays_out_of_batch_statistics",
        ),
    ),
    *of(
        "layers/batch_normalization",
        "layers/test_batch_normalization",
        (
            "ops.where(is_any_real, ops.convert_to_tensor(variable), value)",
            "ops.convert_to_tensor(variable)",
            "test_a_batch_of_padding_leaves_the_moving_statistics_of_a_layer",
        ),
        (
            "is_any_real = ops.any(",
            "is_any_real = ops.all(",
            "test_a_batch_of_padding_leaves_the_moving_statistics_of_a_layer",
        ),
    ),
    # The equations of the poolings.
    *of(
        "layers/vlad_ops",
        "layers/test_poolings",
        (
            "        scale = mass * inverse_root(squared, squared > SQUARED_EPSILON)\n",
            "        scale = inverse_root(squared, squared > SQUARED_EPSILON)\n",
            "test_values_are_the_oracles",
        ),
        (
            "    else:\n        scale = mass\n",
            "    else:\n        scale = ops.ones_like(mass)\n",
            "test_values_are_the_oracles",
        ),
        ("squared_sums = squared * ops.square(mass)", "squared_sums = squared", "test_values_are_the_oracles"),
        (
            "second_order = (squares - centroids * (2.0 * x - centroids)) * precisions - 1.0",
            "second_order = (squares - centroids * (2.0 * x - centroids)) * precisions",
            "test_values_are_the_oracles",
        ),
    ),
    *of(
        "layers/nextvlad",
        "layers/test_poolings",
        (
            'attention = ops.sigmoid(self._linear(z, self.attention_kernel, "attention_bias"))',
            'attention = self._linear(z, self.attention_kernel, "attention_bias")',
            "test_values_are_the_oracles",
        ),
        ("attention if weights is None else attention * weights", "attention", "test_values_are_the_oracles"),
        (
            "mass, self.intra_normalization, self.output_normalization)",
            "mass, self.output_normalization, self.intra_normalization)",
            "test_values_are_the_oracles",
        ),
        ("training=training, mask=present)", "training=training)", "test_batch_statistics_leave_padding_out"),
        ("if not frames:", "if frames is None:", "test_the_contract_of_layers"),
    ),
    *of(
        "layers/frame_inputs",
        "layers/test_poolings",
        ("    if all(positions):", "    if None not in positions:", "test_the_contract_of_layers"),
    ),
    *of(
        "layers/smallest_picture",
        "layers/test_smallest_picture",
        ("return all(backbone", "return bool(backbone", SMALLEST, "layers raise before they return a size of 0"),
        ("        except Exception:", "        except TypeError:", SMALLEST),
        ("has_positions(side, width), side)", "has_positions(width, side), side)", SMALLEST),
        ("height - 1 : height, width - 1 : width", "width - 1 : width, height - 1 : height", ONLY_SMALLER),
        ('if "float" not in', 'if "int" not in', ONLY_SMALLER),
    ),
    *of(
        "layers/netrvlad",
        "layers/test_salad",
        (
            "return cls(num_clusters, num_ghost_clusters, **kwargs)",
            "return cls(num_clusters, **kwargs)",
            "test_supervlad_is_netrvlad_with_four_clusters_and_a_ghost",
        ),
    ),
    *of(
        "layers/netrvlad",
        "layers/test_poolings",
        (
            "mass, self.intra_normalization, self.output_normalization)",
            "mass, self.output_normalization, self.intra_normalization)",
            "test_values_are_the_oracles",
        ),
        (
            "means, mass = cluster_means(a, x)",
            "means, mass = cluster_means(a, x)\n        mass = ops.ones_like(mass)",
            "test_values_are_the_oracles",
        ),
    ),
    *of(
        "layers/soft_dbow",
        "layers/test_poolings",
        (
            "        _, a = self._assigned(inputs, mask, training)  # (B, N, K)\n",
            "        use_bias, self.use_bias = self.use_bias, False\n"
            "        _, a = self._assigned(inputs, mask, training)\n"
            "        self.use_bias = use_bias\n",
            "test_values_are_the_oracles",
        ),
        ("mass = ops.sum(a, axis=1)", "mass = ops.mean(a, axis=1)", "test_values_are_the_oracles"),
        (
            "mass = mass * self._gates(a, training)",
            "mass = mass + self._gates(a, training)",
            "test_values_are_the_oracles",
        ),
        (
            "normalize(ops.max(a, axis=1, initial=0.0))",
            "ops.max(a, axis=1, initial=0.0)",
            "test_values_are_the_oracles",
        ),
    ),
    *of(
        "models/presets",
        "models/test_presets",
        (
            '"joint_input_normalization": True',
            '"joint_input_normalization": False',
            "test_a_preset_computes_what_the_published_code_computed",
        ),
        ("L2(l2 / 2)", "L2(l2)", "test_settings_that_no_size_shows"),
        (
            '"separate_orders": True',
            '"separate_orders": False',
            "test_a_preset_computes_what_the_published_code_computed",
        ),
    ),
    *of(
        "layers/scored_vlad",
        "layers/test_scored_vlad",
        (
            "s = ops.where(ops.expand_dims(present, 2), s, ops.cast(0.0, s.dtype))",
            "pass",
            "test_padding_of_scores_changes_nothing_and_passes_no_gradient",
        ),
        ("self._scored(x if", "self._scored(inputs if", "test_a_score_layer_computes_the_scores_that_could_be_given"),
        ("a != b for a, b in pairs", "a < b for a, b in pairs", "test_wrong_arguments_and_scores_are_refused"),
        ("return x, a if weights is None else a * weights", "return x, a", "test_values_are_those_of_the_equations"),
        (
            '{"mask": present} if masked',
            '{"mask": present} if False',
            "test_score_layers_in_mixed_precision_and_in_training",
        ),
    ),
    *of(
        "export/frame_by_frame",
        "layers/test_scored_vlad",
        (
            "return fold([copy(features)], {id(features): flow}, _apply)[0]",
            "return flow",
            "test_a_live_stream_of_an_encoder_depends_on_its_score_layer",
        ),
        (
            "return fold([scores], known, _apply)[0]",
            "return flow",
            "test_a_live_stream_is_offered_where_scores_are_frame_by_frame",
        ),
    ),
    *of(
        "layers/gem_pooling",
        "layers/test_gem_pooling",
        ("ops.power(x / largest, p), m)", "ops.power(x, p), m) / largest", "test_features_of_any_scale_have_a_mean"),
        ("return at_least(w, 1.0)", "return w", "test_training_keeps_the_exponent_at_one_or_more"),
        ("x < self.epsilon,", "x < 0.0,", "test_zeros_and_negative_values_count_as_epsilon_and_pass_no_gradient"),
        ("ops.power(x, p), axis=1, keepdims=True)", "x, axis=1, keepdims=True)", "test_a_float64_stream_is_float64"),
        ("means = total[:, 0] * inverse_mass(mass)", "means = total[:, 0]", "test_a_float64_stream_is_float64"),
    ),
    *of(
        "layers/optimal_transport",
        "layers/test_salad",
        ("ops.where(is_few, even, 1.0)", "1.0 + 0.0 * even", SHARES),
        ("ops.where(is_few, even, number - num_clusters)", "ops.maximum(number - num_clusters, 1e-6)", SHARES),
        ("s = s if is_real is None else ops.where(is_real, s, NO_SCORE)", "pass", "test_a_global_token_comes_first"),
        ("    v = log_weight\n", "    v = 0.0 * log_weight\n", "test_a_feature_of_weight_two_counts_like_two"),
        (
            "x - largest)",
            "x)",
            SHARES,
        ),
        ("        if iteration:\n", "        if False:\n", "test_a_global_token_comes_first"),
    ),
    *of(
        "layers/salad",
        "layers/test_salad",
        ("ops.concatenate([g, y], axis=1)", "ops.concatenate([y, g], axis=1)", "test_a_global_token_comes_first"),
        ("self._drop(hidden, training=training)", "hidden", "test_dropout_is_for_training"),
        ("(token is None) != (self", "(token is not None) and (None is self", "test_wrong_arguments_are_refused"),
    ),
    *of(
        "layers/temporal_pooling",
        "layers/test_temporal_pooling",
        ("time < ops.reshape(anchor, (-1, 1))", "time <= ops.reshape(anchor, (-1, 1))", HALVES),
        ("return length // 2", "return (length + 1) // 2", "test_the_middle_is_that_of_the_real_frames"),
        ("ops.where(present, time + 1, 0), axis=1", "ops.where(present, 1, 0), axis=1", HALF_OF_REAL_FRAMES),
        ("_within(ops.logical_not(is_before), mask)", "_within(ops.logical_not(is_before), None)", HALF_OF_REAL_FRAMES),
        ('None if key == "seed" else', "", "test_the_copy_has_clusters_of_its_own"),
    ),
    *of(
        "layers/mean_std_pooling",
        "layers/test_poolings",
        ("ops.square(x - ops.expand_dims(mean, 1))", "ops.square(x)", "test_values_are_the_oracles"),
        (
            "weighted_mean(ops.square(x - ops.expand_dims(mean, 1)), m)",
            "weighted_mean(ops.square(x - ops.expand_dims(mean, 1)), None)",
            "test_values_are_the_oracles",
        ),
    ),
    *of(
        "layers/max_pooling",
        "layers/test_poolings",
        ('ops.where(present, x, float("-inf"))', "x", "test_padding_is_no_maximum_of_negative_features"),
        (
            'y = ops.where(ops.any(ops.isnan(x), axis=1), float("nan"), y)',
            "y = ops.where(ops.isnan(y), 0.0, y)",
            "test_a_broken_frame_shows_in_its_video_and_in_no_other",
        ),
        (
            '        y = ops.where(ops.any(ops.isnan(x), axis=1), float("nan"), y)\n',
            "",
            "test_onnxruntime_shows_a_broken_frame_to_poolings_with_a_maximum",
        ),
        (
            "y = ops.where(ops.any(present, axis=1), y, 0.0)",
            "pass",
            "test_a_video_without_frames_gives_zeros_and_the_order_does_not_matter",
        ),
    ),
    *of(
        "layers/kmeans_adaptation",
        "layers/test_adapt",
        (
            "centroids[: self.num_clusters]",
            "centroids[-self.num_clusters :]",
            "test_ghosts_are_the_least_populated_clusters",
        ),
        (
            'self.sum_dtype if path.startswith("batch_normalization") else self.variable_dtype',
            "self.variable_dtype",
            "test_statistics_of_an_assignment_keep_float32",
        ),
        (
            "**self._adapted_weights(sample, centroids)}",
            "**self._adapted_weights(sample, centroids[::-1])}",
            "test_ghosts_are_the_least_populated_clusters",
        ),
        (
            "        if self.normalize_input:\n            sample =",
            "        if False:\n            sample =",
            "test_normalize_input_applies_to_the_sample",
        ),
    ),
    *of(
        "layers/kmeans",
        "layers/test_vlad",
        ("_directions(sample) if distance", "sample if distance", COSINE_KMEANS),
        ("towards = _directions(centroids)", "towards = centroids", COSINE_KMEANS),
    ),
    *of(
        "layers/vlad",
        "layers/test_vlad",
        (
            "normalize(centroids) if",
            "centroids if",
            "test_the_cosine_ignores_the_length_of_centroids_and_not_their_residuals",
        ),
    ),
    *of(
        "videos/vocabulary",
        "videos/test_vocabulary",
        ("if file_digest(path) != digest:", "if False:", "test_the_encoder_of_another_backbone_is_refused"),
        (
            "sums = self._accumulate.run(names, inputs)",
            "sums = sums if sums[1].any() else self._accumulate.run(names, inputs)",
            "test_descriptors_are_those_of_anyloc_for_pictures_and_long_videos",
        ),
    ),
    *of(
        "layers/kmeans",
        "layers/test_adapt",
        (
            "kernel, bias = 2.0 * centroids.T, -squared",
            "kernel, bias = 2.0 * centroids.T, squared",
            "test_weights_with_bias",
        ),
        (
            "kernel, bias = 2.0 * centroids.T, -squared",
            "kernel, bias = centroids.T, -squared",
            "test_weights_with_bias",
        ),
        ("return alpha * kernel, alpha * bias", "return alpha * kernel, bias", "test_weights_with_bias"),
    ),
    *of(
        "layers/soft_assignment",
        "layers/test_adapt",
        (
            '{"batch_normalization.beta": mean + bias}',
            '{"batch_normalization.beta": mean - bias}',
            "test_batch_normalized_assignment_is_the_intended_one",
        ),
        (
            "origin = 0.0 if self.use_bias else",
            "origin = 0.0 if True else",
            "test_without_an_offset_cosines_are_taken_around_the_mean_of_the_features",
        ),
    ),
    # Models, metrics, losses, search.
    *of(
        "models/ensemble",
        "models/test_ensemble",
        (
            "keras.layers.Add(dtype=dtype, name=SCORES)",
            "keras.layers.Add(name=SCORES)",
            "test_the_global_policy_does_not_change_the_mean",
        ),
        ("float(weight) / sum(weights)", "1 / len(weights)", "test_scores_are_the_weighted_mean_of_the_oracles"),
    ),
    *of(
        "models/soft_targets",
        "models/test_ensemble",
        (
            "teacher.predict_on_batch(_known(teacher, inputs))",
            "teacher(_known(teacher, inputs), training=True)",
            "test_the_teacher_of_soft_targets_infers",
        ),
        (
            "(1 - factor) * labels.astype(dtype) + factor *",
            "factor * labels.astype(dtype) + (1 - factor) *",
            "test_soft_targets_are_the_mixture_batch_by_batch",
        ),
    ),
    *of(
        "metrics/score_histogram",
        "metrics/test_metrics",
        (
            'ops.cast(y_true, "float32") >= 0.5',
            'ops.cast(y_true, "float32") > 0.5',
            "test_a_soft_label_counts_from_one_half",
        ),
        (
            'ops.cast(y_true, "float32") >= 0.5',
            'ops.cast(y_true, "float32") > 0.0',
            "test_a_soft_label_counts_from_one_half",
        ),
        ('ops.where(has_nan, float("nan"), weights)', "weights", "test_a_nan_score_makes_the_result_nan"),
        ("divide_no_nan(others, size - 1.0)", "divide_no_nan(others, size)", TIES),
        ("found + 1.0 - (rank + 1.0) * share", "found + 1.0 - share", TIES),
        ("per_score = ops.divide_no_nan(counts[..., 2], counts[..., 1])", "per_score = 1.0", TIES),
    ),
    *of(
        "metrics/segment_mean_average_precision",
        "metrics/test_segment_metrics",
        ("self.top_k - better", "self.top_k", "test_map_at_k_is_that_of_the_challenge"),
        (
            "is_rated * is_counted, is_counted",
            "is_rated * is_counted, is_rated",
            "test_map_at_k_is_that_of_the_challenge",
        ),
        ("is_rated * is_counted, is_counted", "is_rated, is_counted * 0 + 1", "test_segments_of_weight_0_have_no_rank"),
    ),
    *of(
        "losses/rated_binary_crossentropy",
        "metrics/test_segment_metrics",
        (
            "y_true >= 0, entropy, 0.0",
            "y_true >= -1, entropy, 0.0",
            "test_only_rated_classes_have_a_loss_and_a_gradient",
        ),
    ),
    *of(
        "metrics/score_histogram",
        "metrics/test_exact_metrics",
        ("ops.where(is_cut, share, found)", "found", "test_no_order_of_the_classes_helps_a_model_of_equal_scores"),
        (
            "slots * ops.square(share) - pairs",
            "share",
            "test_no_order_of_the_classes_helps_a_model_of_equal_scores",
        ),
        ("(rank + size - number, rank)", "(rank + size - 1.0, rank)", ALL_ORDERS),
        (
            "ops.divide_no_nan(repeated, positives)",
            "1.0",
            "test_no_order_of_the_classes_helps_a_model_of_equal_scores",
        ),
    ),
    *of(
        "metrics/perr",
        "metrics/test_exact_metrics",
        ("scores == lowest", "scores <= lowest", "test_equal_recall_and_the_first_hit_are_those_of_the_definition"),
    ),
    *of(
        "losses/weakly_supervised_triplet_loss",
        "losses/test_ranking_losses",
        ("descriptors[1] != 1 + roles[1]", "descriptors[1] < 1 + roles[1]", "test_bad_shapes"),
        ("descriptors[1] != 1 + roles[1]", "descriptors[1] > 1 + roles[1]", "test_bad_shapes"),
    ),
    *of(
        "retrieval/descriptor_index",
        "retrieval/test_descriptor_index",
        (
            "is_finite = np.isfinite(part).all(axis=1)",
            "is_finite = ~np.isnan(part).any(axis=1)",
            "test_what_can_not_be_added_is_refused_and_nothing_is_added",
        ),
    ),
    # Training, extraction, conversion.
    *of(
        "training/run_directory",
        "training/test_run_directory",
        (
            "{**(later or {}), **_read(path)}",
            "_read(path)",
            "test_settings_that_an_earlier_release_did_not_store_have_their_former_values",
        ),
        (
            'best["weights"] if best else self.state["weights"]',
            'self.state["weights"]',
            "test_the_result_is_the_round_of_the_best_validation",
        ),
        (
            "else value > best)",
            "else value >= best)",
            "test_the_result_is_the_round_of_the_best_validation",
        ),
        (
            "else value > best)",
            "else value < best)",
            "test_the_result_is_the_round_of_the_best_validation",
        ),
        (
            'needed = {state["weights"], state["best"] and state["best"]["weights"]}',
            'needed = {state["weights"]}',
            "test_the_result_is_the_round_of_the_best_validation",
        ),
        (
            '0 if is_better else state["waited"] + 1',
            'state["waited"] + 1',
            "test_patience_counts_validations_since_the_best",
        ),
        (
            'self.state["waited"] >= self.patience',
            'self.state["waited"] > self.patience',
            "test_patience_counts_validations_since_the_best",
        ),
        (
            '            _load(model, self.output / self.state["weights"])\n',
            "            pass\n",
            "test_a_resumed_run_starts_from_the_last_round_and_remembers_the_best",
        ),
    ),
    *of(
        "videos/extraction",
        "videos/test_extraction",
        (
            'output.rglob(f"*{SUFFIX}")',
            'output.glob(f"*{SUFFIX}")',
            "test_settings_are_kept_once_a_folder_has_features",
        ),
        (
            "        path.unlink()  # The earlier call wrote no features.\n",
            "        return\n",
            "test_settings_may_change_until_there_are_features",
        ),
        (
            "file_digest(encoder) == before",
            "True or file_digest(encoder) == before",
            "test_an_encoder_that_was_exchanged_is_refused",
        ),
        ("if output not in path.parents", "", "test_features_inside_the_folder_of_the_videos"),
    ),
    *of(
        "videos/extraction",
        "videos/test_own_training",
        (
            "if (before.labels, before.split) != (video.labels, video.split):",
            "if False:",
            "test_videos_that_are_added_are_extracted_alone",
        ),
    ),
    *of(
        "videos/spotting",
        "videos/test_spotting",
        (
            "np.arange(num_frames) - num_frames // 2",
            "np.arange(num_frames)",
            "test_every_frame_is_the_middle_of_a_window",
        ),
        ("np.clip(rows, 0, len(values) - 1)", "rows % len(values)", "test_every_frame_is_the_middle_of_a_window"),
        (
            "len(next(iter(arrays.values()))), stride)",
            "len(next(iter(arrays.values()))))",
            "test_the_stride_skips_windows",
        ),
        (
            "times[other]) >= distance",
            "times[other]) > distance",
            "test_the_best_spot_of_each_class_suppresses_what_is_near",
        ),
        (
            "np.argsort(-scores, kind",
            "np.argsort(scores, kind",
            "test_the_best_spot_of_each_class_suppresses_what_is_near",
        ),
    ),
    *of(
        "videos/spotting_metric",
        "videos/test_spotting",
        ("<= width / 2", "<= width", "test_a_spot_counts_within_half_the_tolerance_and_once"),
        ("not taken[index] and abs", "abs", "test_a_spot_counts_within_half_the_tolerance_and_once"),
        ("/ (2 * steps)", "/ (2 * steps + 2)", "test_the_average_map_is_that_of_the_definition"),
        ("found[index][1])] = True", "-found[index][1])] = True", "test_the_average_map_is_that_of_the_definition"),
    ),
    *of(
        "videos/splits",
        "videos/test_splits",
        (
            "if len(waiting) - number <= len(empty) else",
            "if False else",
            "test_groups_stay_together_also_if_they_are_as_few_as_the_splits",
        ),
        ("have[splits[name]] += counts[name]", "pass", "test_each_class_is_divided_by_the_shares"),
        ("fixed = dict(earlier or {})", "fixed = {}", "test_videos_that_are_added_leave_the_others_where_they_are"),
        ("np.random.default_rng(seed)", "np.random.default_rng(0)", "test_the_split_depends_on_the_seed_alone"),
    ),
    *of(
        "export/model_card",
        "export/test_model_card",
        ("if char.isprintable() else", "if True else", "test_any_text_of_the_user_stays_text"),
        ("if not metric.is_baseline]", "]", "test_the_metadata_hold_license_task_and_metrics"),
        (
            'f"{evaluated_on} videos of',
            'f"test videos of',
            "test_a_metric_without_an_interval_is_that_of_the_validation",
        ),
        ('str(license_name or "unknown")', 'str(license_name or "")', "test_a_model_without_classes_and_license"),
    ),
    *of(
        "cli/native_log",
        "cli/test_process",
        (
            "if not REMARK.match(line)",
            "if True",
            "test_remarks_of_native_libraries_are_hidden_and_their_errors_are_not",
        ),
        ("thread.join(PATIENCE)", "pass", "test_a_command_ends_after_its_last_lines_are_written"),
    ),
    *of(
        "cli/parser",
        "cli/test_parser",
        ('part if part.startswith("  ") else fill', "fill", "test_an_example_is_one_line_of_the_help"),
    ),
    *of(
        "cli/completion",
        "cli/test_parser",
        ("yield from _actions(command)", "pass", "test_paths_are_completed_as_files"),
    ),
    *of(
        "videos/predict",
        "videos/test_own_training",
        (
            "hexdigest() != self.settings",
            "hexdigest() == '' != self.settings",
            "test_a_predictor_with_another_file_or_none_is_refused",
        ),
        ("if video != videos[-1]]", "]", "test_the_command_writes_answers_and_goes_on_where_it_was_killed"),
        (
            "sums = self.accumulate.run(names, inputs)",
            "sums = sums if sums[0].any() else self.accumulate.run(names, inputs)",
            "test_the_predictor_answers_as_the_model_for_the_video_files",
        ),
        ("np.rint(levels)", "np.floor(levels)", "test_the_predictor_answers_as_the_model_for_the_video_files"),
    ),
    *of(
        "videos/training",
        "videos/test_own_training",
        ("np.maximum(counts, 1))", "1)", "test_class_weights_have_the_mean_1"),
        ("_digest(folder),", '"",', "test_a_run_with_other_features_is_refused"),
        ("start_epoch=first,", "start_epoch=0,", "test_a_killed_run_resumes_with_the_same_weights"),
        ("    if first == 0:\n", "    if True:\n", "test_a_killed_run_resumes_with_the_same_weights"),
    ),
    *of(
        "videos/evaluation",
        "videos/test_evaluation",
        ("np.flatnonzero(members == number)", "np.array([number])", "test_whole_groups_are_drawn"),
        ("/ num_positives", "/ max(hits.sum(), 1)", "test_gap_is_that_of_the_metric"),
    ),
    *of(
        "convert/arrays",
        "convert/test_convert",
        (
            'layer.sum_dtype if path.startswith("batch_normalization") else layer.variable_dtype',
            "layer.variable_dtype",
            "test_statistics_keep_float32_in_a_layer_of_16_bits",
        ),
    ),
    *of(
        "convert/matlab",
        "convert/test_convert",
        ("if len(cores) != 1:", "if not cores:", "test_matlab_files_that_cannot_be_read"),
    ),
    *of(
        "convert/networks/matlab_places",
        "convert/test_whole_models",
        ("types[:size] != expected or not is_complete or ", "types[:size] != expected or ", MATLAB_LAYERS),
        ("names[size : size + len(order)] != order", "False", MATLAB_LAYERS),
        ("if other:", "if False:", MATLAB_LAYERS),
    ),
    *of(
        "convert/keras2_files",
        "convert/test_whole_keras2",
        (
            "[kind] if kind in attributes else numbered",
            "[kind]",
            "test_names_longer_than_an_attribute_are_read_in_parts",
        ),
    ),
    *of(
        "convert/networks/crlz182",
        "convert/test_whole_keras2",
        ("negated=True, normalize_input", "normalize_input", "test_pictures_give_the_descriptors_of_crlz182"),
        ("!= RANKS", "== []", "test_files_without_a_port_are_refused"),
    ),
    *of(
        "convert/networks/keras2_graph",
        "convert/test_whole_keras2",
        ("if index or any(", "if any(", "test_models_of_another_kind_are_refused"),
        ("if done.issuperset(call.sources)", "if True", "test_models_of_another_kind_are_refused"),
    ),
    *of(
        "convert/networks/keras2_layers",
        "convert/test_whole_keras2",
        ("if math.prod(shape) > largest:", "if False:", "test_models_of_another_kind_are_refused"),
        (' and b"epsilon" not in code', "", "test_the_code_of_other_lambdas_is_refused_and_never_run"),
        (' and b"l2_normalize" in code', "", "test_the_code_of_other_lambdas_is_refused_and_never_run"),
    ),
    *of(
        "convert/networks/keras2_models",
        "convert/test_whole_keras2",
        ("-centroids if port.negated", "centroids if port.negated", CARTWHEEL),
        ("kernel.shape[-1] - num_ghosts", "kernel.shape[-1]", CARTWHEEL),
        ("[*trained, *fixed]", "[*fixed, *trained]", NHGJEM),
        ("value = reorder_rows(value, *self._sizes[name])", "pass", NHGJEM),
        ("keras.layers.Permute((2, 1))", "keras.layers.Permute((1, 2))", NHGJEM),
    ),
    *of(
        "convert/networks/speaker",
        "convert/test_whole_keras2",
        ("num_ghosts, output_normalization=False", "num_ghosts", SPEAKER),
        ("centers[:num_clusters]", "centers[-num_clusters:]", SPEAKER),
    ),
    *of(
        "convert/networks/tensors",
        "convert/test_whole_models",
        ("if missing or unknown:", "if missing:", "test_missing_and_unknown_tensors_are_listed"),
        ("if tuple(variable.shape) != value.shape:", "if False:", "test_missing_and_unknown_tensors_are_listed"),
    ),
    *of(
        "convert/networks/youtube8m",
        "convert/test_whole_models",
        ("averages.get(name, read)", "read", "test_the_moving_averages_of_skalic_replace_the_weights"),
        ("reorder_rows(part, *sizes)", "part", YOUTUBE_8M_SCORES),
        ("np.split(value, ends[:-1])", "np.split(value, [4])", YOUTUBE_8M_SCORES),
        ("if num_classes < 1 or ", "if ", "test_missing_and_unknown_tensors_are_listed"),
    ),
    *of(
        "convert/networks/willow",
        "convert/test_whole_models",
        ('* (2 if kind.scope == "FV" else 1)', "", YOUTUBE_8M_SCORES),
        ("np.sqrt(squares)", "covar_weights", YOUTUBE_8M_SCORES),
        ("squares.min(initial=0.0) < 0", "False", "test_covar_weights_of_netfv_without_an_equal_are_named"),
        ('if stream == "rgb"]', "]", YOUTUBE_8M_SCORES),
        ('"relu6" if has_relu else None', "None", "test_a_relu6_is_behind_the_batch_normalization_of_the_projection"),
    ),
    *of(
        "convert/networks/nextvlad",
        "convert/test_whole_models",
        ("reordered(joined, descriptors, name)", "joined", YOUTUBE_8M_SCORES),
        ('"groups": groups, ', "", "test_a_nextvlad_of_other_sizes"),
        ("hidden.shape[1] // max(reduction.shape[1], 1)", "16", YOUTUBE_8M_SCORES),
    ),
    *of(
        "convert/networks/youtube8m_moe",
        "convert/test_whole_models",
        ("if not feature_sizes:", "if False:", "test_a_mixture_of_experts_of_one_stream_and_of_other_features"),
    ),
    *of(
        "layers/soft_assignment",
        "convert/test_convert",
        (
            "        dtype=layer.sum_dtype,\n",
            "        dtype=layer.dtype_policy,\n",
            "test_statistics_keep_float32_in_a_layer_of_16_bits",
        ),
    ),
    # Serving.
    *of(
        "export/serving/warmup",
        "export/serving/test_warmup",
        (
            "if number > MAX_REQUESTS:",
            "if number >= MAX_REQUESTS:",
            "test_more_requests_than_a_server_takes_are_refused",
        ),
        ("if number > MAX_REQUESTS:", "if False:", "test_more_requests_than_a_server_takes_are_refused"),
        (
            "if len(requests) == MAX_REQUESTS:",
            "if len(requests) == MAX_REQUESTS - 1:",
            "test_a_file_of_more_requests_than_a_server_takes_is_refused",
        ),
        (
            'request.model_spec.signature_name or "serving_default"',
            "request.model_spec.signature_name",
            "test_a_request_without_a_signature_is_one_of_serving_default",
        ),
        ("values.size > 1 and bool((values == first).all())", "values.size > 1", "test_what_is_written_is_read"),
        ("if math.prod(shape) > len(serialized):", "if False:", "test_shapes_that_the_values_do_not_fill_are_refused"),
        ("min(shape, default=0) < 0", "False", "test_shapes_that_the_values_do_not_fill_are_refused"),
    ),
    *of(
        "export/serving/warmup_requests",
        "export/serving/test_tensorflow_serving",
        (
            "frames if port.name == NUM_FRAMES else 0,",
            "0,",
            "test_warm_up_requests_cover_every_signature_and_size",
        ),
        (
            'np.zeros((frames, port.shape[2] or 0), "uint8")',
            'np.zeros((1, port.shape[2] or 0), "uint8")',
            "test_warm_up_requests_cover_every_signature_and_size",
        ),
    ),
    *of(
        "export/serving/warmup_sizes",
        "export/serving/test_tensorflow_serving",
        (
            "for batch in (1, largest)",
            "for batch in (largest,)",
            "test_warm_up_requests_cover_every_signature_and_size",
        ),
        (
            "frames=frames)) for frames in lengths\n",
            "frames=frames)) for frames in lengths[:1]\n",
            "test_warm_up_requests_cover_every_signature_and_size",
        ),
    ),
    *of(
        "export/serving/model_versions",
        "export/serving/test_tensorflow_serving",
        (
            "if path.name.isdecimal()]",
            "if path.name.isdecimal() and path.is_dir()]",
            "test_a_file_takes_the_number_of_a_version_too",
        ),
        ("max(versions, default=0) + 1", "len(versions) + 1", "test_a_file_takes_the_number_of_a_version_too"),
        (
            "if path.name.isdecimal()]",
            'if path.name[:1].isdecimal() and path.name.replace(".partial", "")]',
            "test_a_file_takes_the_number_of_a_version_too",
        ),
    ),
    *of(
        "export/serving/triton",
        "export/serving/test_triton",
        (
            're.sub(r"#.*|\\s+", "", text)',
            're.sub(r"\\s+", "", text)',
            "test_versions_are_counted_and_share_the_configuration",
        ),
    ),
    *of(
        "export/inspection",
        "export/test_inspection",
        (
            "return name != SERVING_DEFAULT, name",
            "return name == SERVING_DEFAULT, name",
            "test_a_saved_model_is_described",
        ),
        ("return name != SERVING_DEFAULT, name", "return False, name", "test_a_saved_model_is_described"),
    ),
    *of(
        "videos/report/markup",
        "videos/test_report",
        (
            "html.escape(FORBIDDEN",
            "str(FORBIDDEN",
            "test_text_of_the_files_stays_text",
        ),
    ),
    *of(
        "videos/report/statistics",
        "videos/test_report",
        ("values[numbers] <= 0]", "values[numbers] < 0]", "test_margins_separate_right_from_wrong"),
        ("-values[right]", "values[right]", "test_the_surest_and_the_most_mistaken_clips_are_shown"),
        ("+ scores.argmax(axis=1)", "+ labels.argmax(axis=1)", "test_the_numbers_are_those_of_the_run"),
    ),
    *of(
        "videos/report/thumbnails",
        "videos/test_report",
        ('".." in place.parts', "False", "test_paths_outside_the_folder_are_not_read"),
        (
            "following.time > start + time + 1e-6",
            "following.time >= start + time",
            "test_a_time_stays_with_its_frame_and_the_end_with_the_last_one",
        ),
        ("np.rot90(picture.to_ndarray(), quarters)", "picture.to_ndarray()", "test_pictures_are_upright"),
    ),
    *of(
        "videos/report/sections/clusters",
        "videos/test_report",
        ("@ sums)[:, order]", "@ sums)", "test_the_clusters_of_each_class_are_named"),
    ),
    *of(
        "videos/report/sections/neighbors",
        "videos/test_report",
        ('run.clips.of("train"), run', 'run.clips.of("test"), run', "test_neighbors_are_the_nearest_training_clips"),
    ),
    *of(
        "videos/report/run_files",
        "videos/test_report",
        ("len(set(ids)) < count", "False", "test_arrays_that_do_not_fit_are_named"),
        ("names != labels or", "", "test_results_that_do_not_fit_are_named"),
    ),
    # The user's own videos.
    *of(
        "videos/splits",
        "videos/test_splits",
        ("if len(found) > 1:", "if False:", "test_what_can_not_be_divided_is_one_sentence"),
        ("permutation(sorted(groups))", "permutation(list(groups))", "test_the_split_depends_on_the_seed_alone"),
    ),
    *of(
        "videos/evaluation",
        "videos/test_evaluation",
        ("[:, :TOP]", "", "test_gap_is_that_of_the_metric"),
        ("rng.integers(0, len(rows), len(rows))", "range(len(rows))", "test_whole_groups_are_drawn"),
        ("np.asarray(groups), return", "np.arange(len(groups)), return", "test_whole_groups_are_drawn"),
        ("labels.sum(axis=0)", "(labels > -1).sum(axis=0)", "test_accuracy_and_recall"),
    ),
    *of(
        "videos/labels",
        "videos/test_labels",
        ("if len(classes) < 2:", "if not classes:", "test_other_mistakes"),
        ("[video for video in videos if video.labels]", "videos", "test_an_empty_label_leaves_a_video_out"),
        ("if len(splits) > 1:", "if False:", "test_a_wrong_file_is_one_sentence"),
    ),
    *of(
        "videos/features_folder",
        "videos/test_labels",
        ('(row["label"] or "")', 'row["label"]', "test_other_mistakes"),
        ('not row["path"] or ', "", "test_other_mistakes"),
    ),
    *of(
        "videos/predict",
        "videos/test_own_training",
        (
            "_is_positive(value, HIGHEST_FPS) and frame_rate(value) > 0",
            "_is_positive(value, HIGHEST_FPS)",
            "test_settings_that_do_not_fit_the_predictor_are_named",
        ),
        ("== len(self.labels)", "> 0", "test_settings_that_do_not_fit_the_predictor_are_named"),
        ("self._check_settings_fit_files()", "pass", "test_settings_that_do_not_fit_the_predictor_are_named"),
        ("- OFFSET) / SCALE", ") / SCALE", "test_the_predictor_answers_as_the_model_for_the_video_files"),
        ("crop=True", "crop=False", "test_the_predictor_answers_as_the_model_for_the_video_files"),
    ),
    *of(
        "videos/training",
        "videos/test_own_training",
        ("np.count_nonzero(counts) * ", "", "test_class_weights_have_the_mean_1"),
    ),
    *of(
        "videos/web/compact_weights",
        "videos/test_compact_weights",
        ('{0 if attributes.get("transB") else 1}', "{1}", "test_each_channel_is_rounded_by_itself"),
        ("None if axis is None else order[axis]", "axis", "test_each_channel_is_rounded_by_itself"),
        ("if len(of_readers) == 1", "if None not in of_readers or True", "test_other_weights_are_kept"),
        ("if values.size < MIN_VALUES:", "if False:", "test_other_weights_are_kept"),
        ("if not largest <= limit:", "if largest > limit:", "test_weights_without_a_value_in_the_dtype_are_named"),
    ),
    *of(
        "export/litert/litert_export",
        "export/test_pictures",
        ("**picture_facts(model)}", "}", "test_every_format_is_compared_with_the_model_of_videos"),
    ),
    *of(
        "export/verification/model_of_artifact",
        "export/test_pictures",
        ('!= "onnx":', '== "saved_model":', "test_every_format_is_compared_with_the_model_of_videos"),
        ("and not takes_pictures(model)", "", "test_any_model_of_pictures_has_the_options"),
    ),
    *of(
        "export/pictures",
        "export/test_pictures",
        ('if takes_pictures(model, "nchw") else {}', "if False else {}", "test_any_model_of_pictures_has_the_options"),
    ),
]
