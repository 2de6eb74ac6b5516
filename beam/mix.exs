defmodule Quicdist.MixProject do
  use Mix.Project

  def project do
    [
      app: :quicdist,
      version: "0.2.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      name: "quicdist",
      description: "Python nodes for Erlang and Elixir: supervision, streams, distribution over QUIC",
      package: package(),
      docs: docs(),
      deps: []
    ]
  end

  def application, do: [mod: {:quicdist_app, []}, extra_applications: [:logger]]

  # A fork that publishes the package sets its own links.
  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      build_tools: ["mix", "rebar3"],
      files: ~w(src lib mix.exs rebar.config README.md LICENSE)
    ]
  end

  # Read by ex_doc, which is no dependency of the package.
  defp docs do
    [
      main: "readme",
      extras: ["README.md"],
      groups_for_modules: [Nodes: [Quicdist.Python, Quicdist.Pool], Streams: [Quicdist.StreamError]]
    ]
  end
end
