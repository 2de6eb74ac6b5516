defmodule Shop do
  @python :"20001@203.0.113.10"

  def cost(:tea, pots), do: 3 * pots

  def ask_python(a, b), do: :erpc.call(@python, :calc, :add, [a, b])
end

IO.puts("the shop is open")
